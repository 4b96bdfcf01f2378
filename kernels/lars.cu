// LARS: momentum SGD whose learning rate is scaled, layer by layer, by the ratio of two norms.
#include "block.cuh"

// Thread j of a block sums elements j, j + THREADS, ...: an order that no alignment and no GPU changes. For that, loads
// are of single elements; neighbours are read by neighbouring threads all the same.
DEVICE double sum_of_squares(const float* __restrict__ x, Index n) {
    double sum = 0;
    for (Index i = threadIdx.x; i < n; i += THREADS) {
        const double element = to<double>(x[i]);
        sum = rounded_sum(sum, rounded_product(element, element));
    }
    return block_sum(sum);
}

DEVICE double strided_sum(const double* __restrict__ x, Index n) {
    double sum = 0;
    for (Index i = threadIdx.x; i < n; i += THREADS) sum = rounded_sum(sum, x[i]);
    return block_sum(sum);
}

// squares[0][t] and squares[1][t]: of the parameters and of the gradient in tile t.
extern "C" __global__ void lars_squares(double* __restrict__ squares, const float* __restrict__ parameters,
                                        const float* __restrict__ gradient, const Tile* __restrict__ tiles,
                                        Index count) {
    for (Index t = blockIdx.x; t < count; t += gridDim.x) {
        const Tile tile = tiles[t];
        const double of_parameters = sum_of_squares(parameters + tile.begin, tile.end - tile.begin);
        const double of_gradient = sum_of_squares(gradient + tile.begin, tile.end - tile.begin);
        if (threadIdx.x == 0) {
            squares[t] = of_parameters;
            squares[count + t] = of_gradient;
        }
    }
}

// rates[s] = rate * trust * |w| / (|g| + decay * |w|), or `rate` where a norm is zero. Layer s has tiles first[s] to
// first[s + 1].
extern "C" __global__ void lars_rates(float* __restrict__ rates, const double* __restrict__ squares,
                                      const Index* __restrict__ first, Index segments, Index count, double rate,
                                      double trust, double decay) {
    for (Index s = blockIdx.x; s < segments; s += gridDim.x) {
        const Index begin = first[s], tiles = first[s + 1] - begin;
        const double w = sqrt(strided_sum(squares + begin, tiles));
        const double g = sqrt(strided_sum(squares + count + begin, tiles));
        const double ratio = trust * w / rounded_sum(g, rounded_product(decay, w));
        if (threadIdx.x == 0) rates[s] = to<float>(rounded_product(rate, w > 0 && g > 0 ? ratio : 1.0));
    }
}

// velocity = momentum * velocity + rates[s] * (gradient + decay * parameters); parameters -= velocity.
extern "C" __global__ void lars_update(float* __restrict__ parameters, float* __restrict__ velocity,
                                       const float* __restrict__ gradient, const Tile* __restrict__ tiles, Index count,
                                       const float* __restrict__ rates, float momentum, float decay) {
    constexpr int LANES = VECTOR / sizeof(float);
    for (Index t = blockIdx.x; t < count; t += gridDim.x) {
        const Tile tile = tiles[t];
        const float rate = rates[tile.segment];
        float *p = parameters + tile.begin, *v = velocity + tile.begin;
        const float* g = gradient + tile.begin;
        const Index n = tile.end - tile.begin;
        spread<LANES>(whole_block(), n, aligned_from<LANES>(n, p, v, g), [=](auto width, Index i) {
            constexpr int N = decltype(width)::lanes;
            Pack<float, N> weight = load<N>(p + i), speed = load<N>(v + i), slope = load<N>(g + i);
#pragma unroll
            for (int lane = 0; lane < N; lane++) {
                float &w = weight.lane[lane], &s = speed.lane[lane];
                s = add(multiply(s, momentum), multiply(add(slope.lane[lane], multiply(w, decay)), rate));
                w = subtract(w, s);
            }
            store(v + i, speed);
            store(p + i, weight);
        });
    }
}
