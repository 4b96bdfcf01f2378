// Momentum SGD over a flat buffer of parameters whose layers have their own learning rate and weight decay.
#include "numbers.cuh"

// Each block takes tiles; a tile lies in one layer. The rounding is that of NumPy, one operation after the other.
extern "C" __global__ void sgd(float* __restrict__ parameters, float* __restrict__ velocity,
                               const float* __restrict__ gradient, const Tile* __restrict__ tiles, Index count,
                               const float* __restrict__ rates, const float* __restrict__ decays, float momentum) {
    constexpr int LANES = VECTOR / sizeof(float);
    for (Index t = blockIdx.x; t < count; t += gridDim.x) {
        const Tile tile = tiles[t];
        const float rate = rates[tile.segment], decay = decays[tile.segment];
        float *p = parameters + tile.begin, *v = velocity + tile.begin;
        const float* g = gradient + tile.begin;
        const Index n = tile.end - tile.begin;
        spread<LANES>(whole_block(), n, aligned_from<LANES>(n, p, v, g), [=](auto width, Index i) {
            constexpr int N = decltype(width)::lanes;
            Pack<float, N> weight = load<N>(p + i), speed = load<N>(v + i), slope = load<N>(g + i);
#pragma unroll
            for (int lane = 0; lane < N; lane++) {
                float &w = weight.lane[lane], &s = speed.lane[lane];
                s = add(multiply(s, momentum), slope.lane[lane]);
                if (decay != 0.0f) s = add(s, multiply(w, decay));
                w = subtract(w, multiply(s, rate));
            }
            store(v + i, speed);
            store(p + i, weight);
        });
    }
}
