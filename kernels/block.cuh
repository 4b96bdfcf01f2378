// What the threads of one block find out together, always in the same order: sums and running counts.
#pragma once
#include "numbers.cuh"

// The sum of one number per thread, by a tree of fixed shape. All THREADS threads call it and all get the sum.
DEVICE double block_sum(double mine) {
    __shared__ double part[THREADS];
    part[threadIdx.x] = mine;
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    __syncthreads();
    const double sum = part[0];
    __syncthreads();  // until all have read it, nobody may call again
    return sum;
}

// The sum over the threads before this one (the exclusive scan of W. D. Hillis and G. L. Steele, CACM 1986), and in
// `total` the sum over all. All THREADS threads call it.
DEVICE Index block_scan(Index mine, Index& total) {
    __shared__ Index part[THREADS];
    part[threadIdx.x] = mine;
    __syncthreads();
    for (unsigned reach = 1; reach < THREADS; reach *= 2) {
        const Index before = threadIdx.x >= reach ? part[threadIdx.x - reach] : 0;
        __syncthreads();
        part[threadIdx.x] += before;
        __syncthreads();
    }
    total = part[THREADS - 1];
    const Index before = part[threadIdx.x] - mine;
    __syncthreads();
    return before;
}
