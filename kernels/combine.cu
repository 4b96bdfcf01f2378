// sum, prod, max, min of two sources, or of k in row order. The result may go over any source, so nothing here is
// __restrict__: every thread reads all it needs of an element before it writes it.
#include "numbers.cuh"

// How an operation works on a pair, and the type in which it holds what it has so far.
template <typename T> struct Sum {
    using Held = Wide<T>;
    static DEVICE Held of(Held a, Held b) { return add(a, b); }
};
template <typename T> struct Prod {
    using Held = Wide<T>;
    static DEVICE Held of(Held a, Held b) { return multiply(a, b); }
};

// Of +0 and -0 neither beats the other, except in float16, where each does: so does NumPy's maximum on x86.
template <typename T> DEVICE bool beats(T a, T b) { return exceeds(to<Wide<T>>(a), to<Wide<T>>(b)); }
template <> DEVICE bool beats(Half a, Half b) {
    return exceeds(to<float>(a), to<float>(b)) || to<float>(a) == to<float>(b);
}
template <typename T> struct Max {
    using Held = T;
    static DEVICE T of(T a, T b) { return is_nan(to<Wide<T>>(a)) || beats(a, b) ? a : b; }
};
template <typename T> struct Min {
    using Held = T;
    static DEVICE T of(T a, T b) { return is_nan(to<Wide<T>>(a)) || beats(b, a) ? a : b; }
};

// out[i] = left[i] op right[i], a half type rounded once.
template <typename T, typename Op> DEVICE void combine_two(T* out, const T* left, const T* right, Index n) {
    using Held = typename Op::Held;
    constexpr int LANES = VECTOR / sizeof(T);
    spread<LANES>(whole_grid(), n, aligned_from<LANES>(n, out, left, right), [=](auto width, Index i) {
        constexpr int N = decltype(width)::lanes;
        Pack<T, N> a = load<N>(left + i), b = load<N>(right + i);
#pragma unroll
        for (int lane = 0; lane < N; lane++) {
            a.lane[lane] = to<T>(Op::of(to<Held>(a.lane[lane]), to<Held>(b.lane[lane])));
        }
        store(out + i, a);
    });
}

// out[i] = ((rows[0][i] op rows[1][i]) op rows[2][i]) ..., a half type held in float32 and rounded at the end.
template <typename T, typename Op> DEVICE void combine_rows(T* out, const T* const* rows, int k, Index n) {
    using Held = typename Op::Held;
    constexpr int LANES = VECTOR / sizeof(T);
    Index start = aligned_from<LANES>(n, out);
    for (int row = 0; row < k; row++) start = aligned_from<LANES>(n, rows[row]) == start ? start : n;
    spread<LANES>(whole_grid(), n, start, [=](auto width, Index i) {
        constexpr int N = decltype(width)::lanes;
        Pack<T, N> next = load<N>(rows[0] + i);
        Held held[N];
#pragma unroll
        for (int lane = 0; lane < N; lane++) held[lane] = to<Held>(next.lane[lane]);
        for (int row = 1; row < k; row++) {
            next = load<N>(rows[row] + i);
#pragma unroll
            for (int lane = 0; lane < N; lane++) held[lane] = Op::of(held[lane], to<Held>(next.lane[lane]));
        }
#pragma unroll
        for (int lane = 0; lane < N; lane++) next.lane[lane] = to<T>(held[lane]);
        store(out + i, next);
    });
}

#define KERNELS(T, type, op, Op)                                                                 \
    extern "C" __global__ void op##_two_##type(T* out, const T* left, const T* right, Index n) { \
        combine_two<T, Op<T>>(out, left, right, n);                                              \
    }                                                                                            \
    extern "C" __global__ void op##_rows_##type(T* out, const T* const* rows, int k, Index n) {  \
        combine_rows<T, Op<T>>(out, rows, k, n);                                                 \
    }
#define ALL_OPS(T, type) KERNELS(T, type, sum, Sum) KERNELS(T, type, prod, Prod) \
                         KERNELS(T, type, max, Max) KERNELS(T, type, min, Min)

FOR_ALL(ALL_OPS)
