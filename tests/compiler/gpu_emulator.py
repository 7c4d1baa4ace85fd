"""Runs CUDA source on a CPU: every thread of a block is a fiber, blocks come one after another.

It checks what a generated kernel computes, with its thread bindings, shared memory, barriers and
warp shuffles. A missing barrier shows where it matters in the order that fibers run in, which is
forwards in one half of the blocks and backwards in the other. It says nothing about speed, nor
about what nvcc makes of the source.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np

_HEADER = r"""
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <algorithm>
#include <vector>
#include <ucontext.h>
using std::max; using std::min;
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
typedef unsigned int uint;
struct uint3_ { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct float3 { float x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct int3 { int x, y, z; };
struct alignas(16) int4 { int x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
enum State { RUN, SHUFFLE, SYNC, DONE };
struct Fiber { ucontext_t context; State state; float value, seen; uint3_ index; };
static ucontext_t scheduler;
static std::vector<Fiber> fibers;
static size_t current;
static uint3_ threadIdx, blockIdx, blockDim;
static void wait_as(State state) {
  fibers[current].state = state;
  swapcontext(&fibers[current].context, &scheduler);
}
static inline void __syncthreads() { wait_as(SYNC); }
static inline unsigned __activemask() { return 0xffffffffu; }
static float __shfl_down_sync(unsigned, float value, int delta, int width) {
  size_t self = current;
  fibers[self].value = value;
  wait_as(SHUFFLE);
  size_t lane = self % 32, other = lane % width + delta < (size_t)width ? self + delta : self;
  return other < fibers.size() ? fibers[other].seen : value;
}
static float __shfl_sync(unsigned, float value, int lane, int width) {
  size_t self = current;
  fibers[self].value = value;
  wait_as(SHUFFLE);
  return fibers[self / width * width + lane].seen;
}
static void (*body)();
static void enter() { body(); wait_as(DONE); }
static void run_block(bool backwards) {
  static std::vector<char> stacks;
  const size_t size = 64 << 10;
  stacks.resize(size * fibers.size());
  for (size_t i = 0; i < fibers.size(); ++i) {
    Fiber& f = fibers[i];
    f.state = RUN;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = stacks.data() + size * i;
    f.context.uc_stack.ss_size = size;
    f.context.uc_link = nullptr;
    makecontext(&f.context, enter, 0);
  }
  for (;;) {
    for (size_t n = 0; n < fibers.size(); ++n) {
      size_t i = backwards ? fibers.size() - 1 - n : n;
      if (fibers[i].state != RUN) continue;
      current = i;
      threadIdx = fibers[i].index;
      swapcontext(&scheduler, &fibers[i].context);
    }
    bool shuffled = false, waiting = false;
    for (auto& f : fibers) shuffled |= f.state == SHUFFLE;
    // A warp's threads exchange when all of them wait; only then do the block's meet.
    for (auto& f : fibers) {
      if (f.state != (shuffled ? SHUFFLE : SYNC)) continue;
      f.state = RUN; f.seen = f.value; waiting = true;
    }
    if (!waiting) return;
  }
}
template <class F> static void launch(const int* grid, const int* block, F) {
  blockDim = {(unsigned)block[0], (unsigned)block[1], (unsigned)block[2]};
  fibers.resize(size_t(block[0]) * block[1] * block[2]);
  for (size_t i = 0; i < fibers.size(); ++i)
    fibers[i].index = {unsigned(i % block[0]), unsigned(i / block[0] % block[1]),
                       unsigned(i / block[0] / block[1])};
  for (int z = 0; z < grid[2]; ++z) for (int y = 0; y < grid[1]; ++y)
    for (int x = 0; x < grid[0]; ++x) {
      blockIdx = {(unsigned)x, (unsigned)y, (unsigned)z};
      run_block(x % 2);
    }
}
"""


class EmulatedKernel:
    """A kernel of CUDA source, compiled by the system's C++ compiler."""

    def __init__(self, source: str, name: str, folder: Path) -> None:
        """`name` is the kernel's; its pointers are called `<tensor>_ptr`."""
        definition = re.search(rf"__global__[^;{{]*\b{name}\(([^)]*)\)\s*{{", source)
        assert definition is not None, name
        self.tensors = re.findall(r"(\w+)_ptr", definition[1])
        start = definition.start()
        end = source.index("\n}", start) + 2
        # In C++, an alignment comes before `static`.
        kernel = 'extern "C" ' + re.sub(
            r"__shared__ (alignas\(\d+\))", r"\1 static", source[start:end]
        )
        pointers = "".join(f"static float* a{n};" for n in range(len(self.tensors)))
        arguments = ", ".join(f"a{n}" for n in range(len(self.tensors)))
        taken = ", ".join(f"float* p{n}" for n in range(len(self.tensors)))
        kept = " ".join(f"a{n} = p{n};" for n in range(len(self.tensors)))
        entry = (
            f"{pointers}\nstatic void call() {{ {name}({arguments}); }}\n"
            f'extern "C" void emulate(const int* grid, const int* block, {taken}) '
            f"{{ {kept} body = call; launch(grid, block, 0); }}\n"
        )
        text, library = folder / f"{name}.cc", folder / f"{name}.so"
        text.write_text(_HEADER + kernel + entry, encoding="utf-8")
        command = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-o", library, text]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:2000]
        self._call = ctypes.CDLL(str(library)).emulate

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], **tensors: np.ndarray
    ) -> None:
        """Run a grid of blocks; `tensors` are named as in the kernel, without `_ptr`."""
        three = ctypes.c_int * 3
        pointers = [tensors[name].ctypes.data_as(ctypes.c_void_p) for name in self.tensors]
        self._call(three(*grid), three(*block), *pointers)
