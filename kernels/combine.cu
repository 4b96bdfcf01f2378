// sum, prod, max, min of two sources, or of up to 64 in row order, into as many targets. The result may go over any
// source, so nothing here is __restrict__: every thread reads all it needs of an element before it writes it.
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

// What arrays a launch names on one side: 512 of the 4096 bytes that arguments may have together.
constexpr int MOST = 64;
template <typename T> struct Rows {
    T* row[MOST];
};

// The first element at which all of `count` rows are aligned, if that is `start`; else n.
template <int N, typename T> DEVICE Index all_aligned_from(Index start, Index n, const Rows<T>& rows, int count) {
    for (int i = 0; i < count; i++) start = aligned_from<N>(n, rows.row[i]) == start ? start : n;
    return start;
}

// A store that stays one: in a loop the compiler makes one for each element of an ordinary assignment.
template <typename T> DEVICE void put(T* into, const T& words) { *into = words; }
template <> DEVICE void put(uint4* into, const uint4& words) { __stwb(into, words); }

// into[i] = ((from[0][i] op from[1][i]) op from[2][i]) ..., a half type held in float32 and rounded at the end.
template <typename T, typename Op>
DEVICE void combine_rows(const Rows<T>& into, int targets, const Rows<const T>& from, int sources, Index n) {
    using Held = typename Op::Held;
    constexpr int LANES = VECTOR / sizeof(T);
    Index start = all_aligned_from<LANES>(aligned_from<LANES>(n, from.row[0]), n, from, sources);
    start = all_aligned_from<LANES>(start, n, into, targets);
    spread<LANES>(whole_grid(), n, start, [&](auto width, Index i) {
        constexpr int N = decltype(width)::lanes;
        Pack<T, N> next = load<N>(from.row[0] + i);
        Held held[N];
#pragma unroll
        for (int lane = 0; lane < N; lane++) held[lane] = to<Held>(next.lane[lane]);
        for (int row = 1; row < sources; row++) {
            next = load<N>(from.row[row] + i);
#pragma unroll
            for (int lane = 0; lane < N; lane++) held[lane] = Op::of(held[lane], to<Held>(next.lane[lane]));
        }
#pragma unroll
        for (int lane = 0; lane < N; lane++) next.lane[lane] = to<T>(held[lane]);
        Words<Pack<T, N>> words;
        memcpy(&words, &next, sizeof(words));
        for (int row = 0; row < targets; row++) put(reinterpret_cast<Words<Pack<T, N>>*>(into.row[row] + i), words);
    });
}

#define KERNELS(T, type, op, Op)                                                                                       \
    extern "C" __global__ void op##_two_##type(T* out, const T* left, const T* right, Index n) {                       \
        combine_two<T, Op<T>>(out, left, right, n);                                                                    \
    }                                                                                                                  \
    extern "C" __global__ void op##_rows_##type(Rows<T> into, int targets, Rows<const T> from, int sources, Index n) { \
        combine_rows<T, Op<T>>(into, targets, from, sources, n);                                                       \
    }
#define ALL_OPS(T, type) KERNELS(T, type, sum, Sum) KERNELS(T, type, prod, Prod) \
                         KERNELS(T, type, max, Max) KERNELS(T, type, min, Min)

FOR_ALL(ALL_OPS)
