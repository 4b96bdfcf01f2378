// Eight-bit gradients with error feedback: a scale for every group of GROUP elements, the rounding error kept for the
// next step.
#include "numbers.cuh"

constexpr int GROUP = 256;  // elements that share a scale, handled by one warp
constexpr int PER_LANE = GROUP / WARP;
constexpr int LARGEST_CODE = 127;

// Every lane gets the maximum over the warp.
DEVICE unsigned warp_max(unsigned mine) {
    for (int apart = WARP / 2; apart > 0; apart /= 2) {
        const unsigned other = __shfl_xor_sync(0xffffffffu, mine, apart);
        mine = other > mine ? other : mine;
    }
    return mine;
}

DEVICE int code_of(float x, float scale) {
    const int code = __float2int_rn(divide(x, scale));
    return code > LARGEST_CODE ? LARGEST_CODE : code < -LARGEST_CODE ? -LARGEST_CODE : code;
}

// Magnitudes are compared as bits: they have the order of the numbers, with infinity and then NaN on top, and no option
// flushes them.
extern "C" __global__ void quantise(signed char* __restrict__ codes, float* __restrict__ scales,
                                    float* __restrict__ error, const float* __restrict__ x, Index n) {
    const Team lanes = whole_grid();
    const Index groups = (n + GROUP - 1) / GROUP, warps = lanes.size / WARP, lane = lanes.rank % WARP;
    for (Index group = lanes.rank / WARP; group < groups; group += warps) {
        float value[PER_LANE];
        unsigned largest = 0;
#pragma unroll
        for (int j = 0; j < PER_LANE; j++) {
            const Index i = group * GROUP + j * WARP + lane;
            value[j] = i < n ? add(x[i], error[i]) : 0.0f;
            const unsigned magnitude = bits_of(value[j]) & MAGNITUDE;
            largest = magnitude > largest ? magnitude : largest;
        }
        largest = warp_max(largest);
        const bool finite = largest < INFINITE;
        const float scale = finite ? divide(float_of(largest), 127.0f) : float_of(INFINITE | QUIET);
        const bool codable = finite && bits_of(scale) != 0;  // a tiny group's scale may round to zero
#pragma unroll
        for (int j = 0; j < PER_LANE; j++) {
            const Index i = group * GROUP + j * WARP + lane;
            if (i >= n) continue;
            const int code = codable ? code_of(value[j], scale) : 0;
            codes[i] = static_cast<signed char>(code);
            error[i] = finite ? subtract(value[j], multiply(static_cast<float>(code), scale)) : 0.0f;
        }
        if (lane == 0) scales[group] = scale;
    }
}

extern "C" __global__ void dequantise(float* __restrict__ out, const signed char* __restrict__ codes,
                                      const float* __restrict__ scales, Index n) {
    constexpr int LANES = VECTOR / sizeof(float);
    spread<LANES>(whole_grid(), n, aligned_from<LANES>(n, out, codes), [=](auto width, Index i) {
        constexpr int N = decltype(width)::lanes;
        const Pack<signed char, N> code = load<N>(codes + i);
        Pack<float, N> x;
#pragma unroll
        for (int lane = 0; lane < N; lane++) {
            x.lane[lane] = multiply(static_cast<float>(code.lane[lane]), scales[(i + lane) / GROUP]);
        }
        store(out + i, x);
    });
}
