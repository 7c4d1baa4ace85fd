// TCG plugin: counts the executions of every basic block, and what the data caches would do.
//
// The guest says with a system call of an unused number which part of the work begins and on which
// core it would run; when a part ends, its counts are written and forgotten. One guest thread only.
//
// Output, little endian, one record after another:
//   'B' u32 block, u64 address, u32 instructions, u32 bytes, the bytes    a block, before its first use
//   'P' u32 step, u32 task, u32 pass, u32 blocks, u32 levels,
//       per level: u64 lines that it did not hold, per block: u32 block, u64 executions
//   'E'                                                                   the guest ended
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// QEMU installs no header for plugins. These are the declarations of its API version 1 that are used.
typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
enum qemu_plugin_mem_rw { QEMU_PLUGIN_MEM_R = 1, QEMU_PLUGIN_MEM_W, QEMU_PLUGIN_MEM_RW };
typedef void (*exec_cb)(unsigned int vcpu, void *data);
typedef void (*mem_cb)(unsigned int vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *data);
typedef void (*translate_cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*syscall_cb)(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t a1,
                           uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6,
                           uint64_t a7, uint64_t a8);
typedef void (*end_cb)(qemu_plugin_id_t id, void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, translate_cb cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, exec_cb cb,
                                          enum qemu_plugin_cb_flags flags, void *data);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn, mem_cb cb,
                                      enum qemu_plugin_cb_flags flags, enum qemu_plugin_mem_rw rw,
                                      void *data);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t id, syscall_cb cb);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, end_cb cb, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
unsigned int qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t info);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

#define MARK_NUMBER 0x7FA7  // the system call by which the guest speaks to us; Linux has none there
enum { BEGIN = 1, END = 2 };
#define MAX_CORES 1024  // that of ofatvm.target
#define MAX_LEVELS 3

typedef struct Block {
  uint32_t id;
  uint64_t count;
  uint64_t address;
  uint32_t instructions;
  bool listed;
  struct Block *next;  // in its bucket
} Block;

typedef struct {
  uint64_t *tags;  // sets x ways, the most recently used first; 0 is empty
  uint64_t mask;
  unsigned ways;
  uint64_t misses;
} Cache;

#define BUCKETS 65536
static Block *buckets[BUCKETS];
static Block **blocks;
static size_t block_count, block_room;
static FILE *out;
static bool counting;
static unsigned levels, cores, shift;
static Cache caches[MAX_LEVELS][MAX_CORES];
static Cache *path[MAX_LEVELS];
static uint64_t last_line;

static void put(const void *data, size_t size) {
  if (fwrite(data, 1, size, out) != size) {
    fprintf(stderr, "ofatvm plugin: cannot write the counts\n");
    _Exit(3);
  }
}
static void put32(uint32_t value) { put(&value, 4); }
static void put64(uint64_t value) { put(&value, 8); }

// Looks a line up, brings it in, says whether it was there.
static bool look(Cache *cache, uint64_t line) {
  uint64_t *set = cache->tags + (line & cache->mask) * cache->ways;
  uint64_t tag = line + 1, carried = tag;
  for (unsigned way = 0; way < cache->ways; way++) {
    uint64_t held = set[way];
    set[way] = carried;
    if (held == tag) return true;
    carried = held;
  }
  return false;
}

static void touch(uint64_t line) {
  for (unsigned level = 0; level < levels && !look(path[level], line); level++) path[level]->misses++;
}

static void on_memory(unsigned int vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *data) {
  (void)vcpu;
  (void)data;
  if (!counting) return;
  uint64_t line = address >> shift;
  uint64_t end = (address + (1u << qemu_plugin_mem_size_shift(info)) - 1) >> shift;
  if (line == last_line && end == line) return;
  touch(line);
  if (end != line) touch(end);
  last_line = end;
}

static void on_block(unsigned int vcpu, void *data) {
  (void)vcpu;
  ((Block *)data)->count++;
}

static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
  (void)id;
  uint64_t address = qemu_plugin_tb_vaddr(tb);
  uint32_t count = (uint32_t)qemu_plugin_tb_n_insns(tb);
  size_t bucket = (address ^ address >> 16 ^ count) % BUCKETS;
  Block *block = buckets[bucket];
  while (block && (block->address != address || block->instructions != count)) block = block->next;
  if (!block) {
    block = calloc(1, sizeof *block);
    if (block_count == block_room) {
      block_room = block_room ? 2 * block_room : 1024;
      blocks = realloc(blocks, block_room * sizeof *blocks);
    }
    if (!block || !blocks) _Exit(3);
    *block = (Block){(uint32_t)block_count, 0, address, count, false, buckets[bucket]};
    blocks[block_count++] = buckets[bucket] = block;
    uint32_t size = 0;
    for (uint32_t i = 0; i < count; i++)
      size += (uint32_t)qemu_plugin_insn_size(qemu_plugin_tb_get_insn(tb, i));
    put("B", 1);
    put32(block->id);
    put64(address);
    put32(count);
    put32(size);
    for (uint32_t i = 0; i < count; i++) {
      struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
      put(qemu_plugin_insn_data(insn), qemu_plugin_insn_size(insn));
    }
  }
  qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, QEMU_PLUGIN_CB_NO_REGS, block);
  if (levels)
    for (uint32_t i = 0; i < count; i++)
      qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), on_memory,
                                       QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW, NULL);
}

static void forget(void) {
  for (size_t i = 0; i < block_count; i++) blocks[i]->count = 0;
  for (unsigned level = 0; level < levels; level++) path[level]->misses = 0;
  last_line = UINT64_MAX;
}

static void on_syscall(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t what,
                       uint64_t step, uint64_t task, uint64_t pass, uint64_t a5, uint64_t a6,
                       uint64_t a7, uint64_t a8) {
  (void)id, (void)vcpu, (void)a5, (void)a6, (void)a7, (void)a8;
  if (number != MARK_NUMBER) return;
  if (what == BEGIN) {
    for (unsigned level = 0; level < levels; level++) {
      Cache *cache = &caches[level][task % cores];
      path[level] = cache->tags ? cache : &caches[level][0];
    }
    forget();
    counting = true;
  } else if (what == END && counting) {
    counting = false;
    uint32_t used = 0;
    for (size_t i = 0; i < block_count; i++) used += blocks[i]->count != 0;
    put("P", 1);
    put32((uint32_t)step);
    put32((uint32_t)task);
    put32((uint32_t)pass);
    put32(used);
    put32(levels);
    for (unsigned level = 0; level < levels; level++) put64(path[level]->misses);
    for (size_t i = 0; i < block_count; i++)
      if (blocks[i]->count) {
        put32(blocks[i]->id);
        put64(blocks[i]->count);
      }
    fflush(out);
  }
}

static void on_end(qemu_plugin_id_t id, void *data) {
  (void)id, (void)data;
  put("E", 1);
  fclose(out);
}

// level=BYTES:WAYS:SHARED, the nearest first
static bool add_level(const char *text) {
  uint64_t size = 0;
  unsigned ways = 0, shared = 0;
  if (levels == MAX_LEVELS || sscanf(text, "%" SCNu64 ":%u:%u", &size, &ways, &shared) != 3)
    return false;
  uint64_t sets = ways ? (size >> shift) / ways : 0;
  if (!sets) return false;
  // A number of sets that is no power of two is rounded down to one; the ways make up for it.
  uint64_t power = 1;
  while (power * 2 <= sets) power *= 2;
  ways = (unsigned)((size >> shift) / power);
  for (unsigned core = 0; core < (shared ? 1 : cores); core++) {
    Cache *cache = &caches[levels][core];
    cache->tags = calloc(power * ways, sizeof *cache->tags);
    if (!cache->tags) return false;
    cache->mask = power - 1;
    cache->ways = ways;
  }
  levels++;
  return true;
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id,
                                                               const qemu_info_t *info, int argc,
                                                               char **argv) {
  (void)info;
  cores = 1;
  shift = 6;
  for (int i = 0; i < argc; i++) {
    const char *value = strchr(argv[i], '=');
    bool fine = value != NULL;
    if (fine) value++;
    if (fine && strncmp(argv[i], "out=", 4) == 0) out = fopen(value, "wb");
    else if (fine && strncmp(argv[i], "cores=", 6) == 0) {
      cores = (unsigned)atoi(value);
      fine = cores >= 1 && cores <= MAX_CORES;
    } else if (fine && strncmp(argv[i], "line=", 5) == 0) {
      for (shift = 0; (1u << shift) < (unsigned)atoi(value) && shift < 12; shift++) {
      }
    } else if (fine && strncmp(argv[i], "level=", 6) == 0) fine = add_level(value);
    if (!fine) {
      fprintf(stderr, "ofatvm plugin: cannot read the argument %s\n", argv[i]);
      return 1;
    }
  }
  if (!out) {
    fprintf(stderr, "ofatvm plugin: no file for the counts\n");
    return 1;
  }
  for (unsigned level = 0; level < levels; level++) path[level] = &caches[level][0];
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
  qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
  qemu_plugin_register_atexit_cb(id, on_end, NULL);
  return 0;
}
