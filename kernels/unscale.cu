// Mixed precision: gradients times 1 / (loss scale), in float32, and a flag if any is then infinite or NaN.
#include "numbers.cuh"

// In place for float32, so `out` and `gradient` are not __restrict__.
template <typename T>
DEVICE void unscale(float* out, const T* gradient, float inverse, int* __restrict__ overflow, Index n) {
    constexpr int LANES = VECTOR / sizeof(float);
    bool finite = true;
    spread<LANES>(whole_grid(), n, aligned_from<LANES>(n, out, gradient), [=, &finite](auto width, Index i) {
        constexpr int N = decltype(width)::lanes;
        Pack<T, N> scaled = load<N>(gradient + i);
        Pack<float, N> right;
#pragma unroll
        for (int lane = 0; lane < N; lane++) {
            right.lane[lane] = multiply(to<float>(scaled.lane[lane]), inverse);
            finite = finite && is_finite(right.lane[lane]);
        }
        store(out + i, right);
    });
    if (!finite) *overflow = 1;  // whoever writes, writes the same
}

#define UNSCALE(T, type)                                                                    \
    extern "C" __global__ void unscale_##type(float* out, const T* gradient, float inverse, \
                                              int* __restrict__ overflow, Index n) {        \
        unscale(out, gradient, inverse, overflow, n);                                       \
    }

UNSCALE(float, float32)
FOR_HALVES(UNSCALE)
