// Just enough CUDA for a host compiler to run the kernels, thread by thread, where there is no GPU.
//
// The threads of a block are fibers: each runs until it waits at a barrier or ends. Blocks, and threads between two
// barriers, take turns in an order shuffled by a seed: what depends on the order shows. Shared memory is static, since
// one block runs at a time. A barrier that not all of its threads reach ends the launch with an error.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline

struct Dim {
    unsigned x;
};
static Dim threadIdx, blockIdx, blockDim, gridDim;

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

// ---- fibers

constexpr int READY = -1, AT_BLOCK_BARRIER = -2, DONE = -3;  // or the number of the warp whose barrier it waits at
constexpr int WARP_SIZE = 32;
constexpr std::size_t STACK = 64 * 1024;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK]};
    int state = READY;
};

static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static std::function<void()> body;

static void wait_at(int barrier) {
    const unsigned me = threadIdx.x;
    fibers[me].state = barrier;
    swapcontext(&fibers[me].context, &scheduler);
}

static void enter() {
    body();
    fibers[threadIdx.x].state = DONE;
}

static void start(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = &scheduler;
    fiber.state = READY;
    makecontext(&fiber.context, enter, 0);
}

// Lets the threads [first, last) go on if all of them wait at this barrier.
static bool release(unsigned first, unsigned last, int barrier) {
    for (unsigned t = first; t < last; t++)
        if (fibers[t].state != barrier) return false;
    for (unsigned t = first; t < last; t++) fibers[t].state = READY;
    return true;
}

static bool release_any() {
    bool any = release(0, blockDim.x, AT_BLOCK_BARRIER);
    for (unsigned t = 0; t < blockDim.x; t += WARP_SIZE)
        any = release(t, std::min(t + WARP_SIZE, blockDim.x), static_cast<int>(t / WARP_SIZE)) || any;
    return any;
}

static bool run_block(std::mt19937& random) {
    std::vector<unsigned> order(blockDim.x);
    for (unsigned t = 0; t < blockDim.x; t++) start(fibers[order[t] = t]);
    do {
        std::shuffle(order.begin(), order.end(), random);
        for (unsigned t : order) {
            if (fibers[t].state != READY) continue;
            threadIdx.x = t;
            swapcontext(&scheduler, &fibers[t].context);
        }
    } while (release_any());
    return std::all_of(fibers.begin(), fibers.begin() + blockDim.x, [](const Fiber& f) { return f.state == DONE; });
}

// ---- launches, with arguments as cuLaunchKernel takes them and with their sizes, which it cannot check

struct Launch {
    unsigned blocks, threads, seed;
    int count;
    void** arguments;
    const std::size_t* sizes;
};

constexpr int GOOD = 0, WRONG_COUNT = -1, STUCK = -2;  // or the number of an argument of the wrong size, from 1

template <typename... Parameters, std::size_t... I>
static int run(void (*kernel)(Parameters...), const Launch& launch, std::index_sequence<I...>) {
    const std::size_t expected[] = {sizeof(Parameters)...};
    if (launch.count != static_cast<int>(sizeof...(Parameters))) return WRONG_COUNT;
    for (int i = 0; i < launch.count; i++)
        if (launch.sizes[i] != expected[i]) return i + 1;
    body = [&] { kernel(*static_cast<Parameters*>(launch.arguments[I])...); };
    gridDim.x = launch.blocks;
    blockDim.x = launch.threads;
    if (fibers.size() < launch.threads) fibers.resize(launch.threads);
    std::mt19937 random(launch.seed);
    std::vector<unsigned> order(launch.blocks);
    for (unsigned b = 0; b < launch.blocks; b++) order[b] = b;
    std::shuffle(order.begin(), order.end(), random);
    for (unsigned b : order) {
        blockIdx.x = b;
        if (!run_block(random)) return STUCK;
    }
    return GOOD;
}

#define LAUNCHER(kernel)                                                                      \
    extern "C" int launch_##kernel(const Launch* launch) { return run(kernel, *launch); }

template <typename... Parameters> static int run(void (*kernel)(Parameters...), const Launch& launch) {
    return run(kernel, launch, std::index_sequence_for<Parameters...>{});
}

// ---- what kernels call

static inline void __syncthreads() { wait_at(AT_BLOCK_BARRIER); }

static inline unsigned __shfl_xor_sync(unsigned, unsigned mine, int apart) {
    static unsigned given[1024];
    const unsigned me = threadIdx.x;
    const int warp = static_cast<int>(me / WARP_SIZE);
    given[me] = mine;
    wait_at(warp);
    const unsigned got = given[me ^ static_cast<unsigned>(apart)];
    wait_at(warp);
    return got;
}

static inline void __stwb(uint4* into, uint4 words) { *into = words; }

template <typename T> static inline T atomicAdd(T* where, T amount) {
    const T before = *where;
    *where += amount;
    return before;
}

template <typename To, typename From> static inline To same_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "bits of one size");
    To y;
    std::memcpy(&y, &x, sizeof(y));
    return y;
}
static inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
static inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return same_bits<double>(x); }
static inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
using std::memcpy;
using std::sqrt;

// A float16 is m * 2**-24 with m < 2**11 and, above 2**-14, a larger power of two. Not for NaN.
static inline float host_half_to_float(unsigned short bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31 ? INFINITY
                       : exponent     ? std::ldexp(static_cast<float>(fraction + 1024), exponent - 25)
                                      : std::ldexp(static_cast<float>(fraction), -24);
    return bits & 0x8000 ? -size : size;
}

static inline unsigned short host_float_to_half(float x) {
    const unsigned short sign = std::signbit(x) ? 0x8000 : 0;
    const float size = std::fabs(x);
    if (size >= 65520.0f) return sign | 0x7c00;  // half-way between the largest float16 and the next power of two
    const int exponent = size < 0x1p-14f ? -14 : std::ilogb(size);
    const float units = std::nearbyint(std::ldexp(size, 10 - exponent));  // ties to even
    return static_cast<unsigned short>(sign + ((exponent + 14) << 10) + static_cast<int>(units));
}
