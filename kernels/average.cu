// The mean of a sum over `size` ranks, cast on the way out, so that the sum is read once and never written back.
#include "numbers.cuh"

// In place where both types are the same, so nothing here is __restrict__.
template <typename From, typename To> DEVICE void average(To* out, const From* total, double size, Index n) {
    constexpr int LANES = VECTOR / (sizeof(From) > sizeof(To) ? sizeof(From) : sizeof(To));
    Wide<From> divisor = static_cast<Wide<From>>(size);
    spread<LANES>(whole_grid(), n, aligned_from<LANES>(n, out, total), [=](auto width, Index i) {
        constexpr int N = decltype(width)::lanes;
        Pack<From, N> sum = load<N>(total + i);
        Pack<To, N> mean;
#pragma unroll
        for (int lane = 0; lane < N; lane++) mean.lane[lane] = to<To>(divide(to<Wide<From>>(sum.lane[lane]), divisor));
        store(out + i, mean);
    });
}

// Integers are rounded toward zero, which is what / does.
template <typename T> DEVICE void average_integers(T* out, const T* total, Index size, Index n) {
    constexpr int LANES = VECTOR / sizeof(T);
    spread<LANES>(whole_grid(), n, aligned_from<LANES>(n, out, total), [=](auto width, Index i) {
        constexpr int N = decltype(width)::lanes;
        Pack<T, N> sum = load<N>(total + i);
#pragma unroll
        for (int lane = 0; lane < N; lane++) sum.lane[lane] = static_cast<T>(sum.lane[lane] / size);
        store(out + i, sum);
    });
}

#define AVERAGE(From, from, To, type)                                                                      \
    extern "C" __global__ void average_##from##_##type(To* out, const From* total, double size, Index n) { \
        average(out, total, size, n);                                                                      \
    }
#define TO_EACH(From, from)                                                  \
    AVERAGE(From, from, double, float64) AVERAGE(From, from, float, float32) \
    AVERAGE(From, from, Half, float16) AVERAGE(From, from, Bfloat16, bfloat16)
#define INTEGERS(T, type)                                                                             \
    extern "C" __global__ void average_##type##_##type(T* out, const T* total, Index size, Index n) { \
        average_integers(out, total, size, n);                                                        \
    }

FOR_FLOATS(TO_EACH)
FOR_INTEGERS(INTEGERS)
