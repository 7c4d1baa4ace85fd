// The guest program of a simulation: runs steps over tensors, and marks each for the plugin.
//
// It needs no C library. Steps and sizes come from an object file that is linked to it. Tensors are
// zero, which no kernel branches on.
#include <stddef.h>
#include <stdint.h>

enum { BEGIN = 1, END = 2, MARK = 0x7FA7, ARGUMENTS = 8, BASES = 4 };

struct step {
  void (*run)(int32_t, int32_t, void *, void *, void *, void *, void *, void *, void *, void *);
  int32_t parallel;
  int32_t bases[ARGUMENTS];
  int32_t padding;
  int64_t offsets[ARGUMENTS];
};
extern const struct step ofatvm_steps[];
extern const int32_t ofatvm_step_count, ofatvm_tasks, ofatvm_passes;
extern const int64_t ofatvm_bytes[BASES];

// What is in this section is not counted: the linker puts it where no kernel is.
#define APART __attribute__((section(".ofatvm")))

// Every address is fixed, those of the stack too: which lines share a set of a cache must not depend
// on the environment.
enum { STACK_BYTES = 8 << 20, FIRST_TENSOR = 0x20000000 };
__attribute__((used)) struct {
  char bytes[STACK_BYTES];
} stack __attribute__((aligned(4096)));
__asm__(".globl stack_end\n.set stack_end, stack + 8388608\n");

#if defined(__x86_64__)
enum { EXIT_GROUP = 231, MMAP = 9 };
APART static long call(long n, long a, long b, long c, long d, long e, long f) {
  register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}
__asm__(".globl _start\n_start: xor %ebp,%ebp\n lea stack_end(%rip),%rsp\n call start\n");
#elif defined(__aarch64__)
enum { EXIT_GROUP = 94, MMAP = 222 };
APART static long call(long n, long a, long b, long c, long d, long e, long f) {
  register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c, x3 __asm__("x3") = d, x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile("svc 0"
                   : "+r"(x0)
                   : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                   : "memory");
  return x0;
}
__asm__(".globl _start\n_start: adrp x0,stack_end\n add x0,x0,:lo12:stack_end\n mov sp,x0\n"
        " mov x29,#0\n bl start\n");
#elif defined(__arm__)
enum { EXIT_GROUP = 248, MMAP = 192 };  // mmap2: its offset, which is 0, counts pages
APART static long call(long n, long a, long b, long c, long d, long e, long f) {
  register long r7 __asm__("r7") = n, r0 __asm__("r0") = a, r1 __asm__("r1") = b;
  register long r2 __asm__("r2") = c, r3 __asm__("r3") = d, r4 __asm__("r4") = e;
  register long r5 __asm__("r5") = f;
  __asm__ volatile("svc 0"
                   : "+r"(r0)
                   : "r"(r7), "r"(r1), "r"(r2), "r"(r3), "r"(r4), "r"(r5)
                   : "memory");
  return r0;
}
__asm__(".globl _start\n_start: ldr r0,=stack_end\n mov sp,r0\n bl start\n .ltorg\n");
#elif defined(__riscv)
enum { EXIT_GROUP = 94, MMAP = 222 };
APART static long call(long n, long a, long b, long c, long d, long e, long f) {
  register long a7 __asm__("a7") = n, a0 __asm__("a0") = a, a1 __asm__("a1") = b;
  register long a2 __asm__("a2") = c, a3 __asm__("a3") = d, a4 __asm__("a4") = e;
  register long a5 __asm__("a5") = f;
  __asm__ volatile("ecall"
                   : "+r"(a0)
                   : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5)
                   : "memory");
  return a0;
}
__asm__(".globl _start\n_start: la sp,stack_end\n call start\n");
#else
#error "no system calls for this architecture"
#endif

// Compilers call these by themselves.
void *memset(void *to, int value, size_t size) {
  unsigned char *bytes = to;
  for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)value;
  return to;
}
void *memcpy(void *restrict to, const void *restrict from, size_t size) {
  unsigned char *target = to;
  const unsigned char *source = from;
  for (size_t i = 0; i < size; i++) target[i] = source[i];
  return to;
}

APART static void mark(long what, long step, long task, long pass) { call(MARK, what, step, task, pass, 0, 0); }

APART __attribute__((noreturn)) static void leave(int code) {
  call(EXIT_GROUP, code, 0, 0, 0, 0, 0);
  __builtin_unreachable();
}

APART __attribute__((used, noreturn)) void start(void) {
  const long read_write = 3, private_anonymous_fixed = 0x32, page = 4096;
  char *base[BASES];
  long next = FIRST_TENSOR;
  for (int i = 0; i < BASES; i++) {
    long size = (long)(ofatvm_bytes[i] + 2 * page) & -page;
    long at = call(MMAP, next, size, read_write, private_anonymous_fixed, -1, 0);
    if (at != next) leave(12);
    // Tensors start at different places of a page, as an allocator would have it.
    base[i] = (char *)at + 64 * i;
    next = at + size;
  }
  // One inexact operation: from then on qemu computes with the host's floating point unit.
  volatile float three = 3.0f, third;
  third = 1.0f / three;
  (void)third;
  for (int32_t pass = 0; pass < ofatvm_passes; pass++)
    for (int32_t n = 0; n < ofatvm_step_count; n++) {
      const struct step *step = &ofatvm_steps[n];
      void *a[ARGUMENTS];
      for (int i = 0; i < ARGUMENTS; i++) a[i] = base[step->bases[i]] + step->offsets[i];
      int32_t tasks = step->parallel ? ofatvm_tasks : 1;
      for (int32_t task = 0; task < tasks; task++) {
        mark(BEGIN, n, task, pass);
        step->run(task, tasks, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
        mark(END, n, task, pass);
      }
    }
  leave(0);
}
