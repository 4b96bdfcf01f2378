// Top-k compression: a threshold that about k magnitudes reach, the elements that do, in order, and their sum into a
// dense buffer. Magnitudes are the bits of a float32 without its sign, which have the order of the numbers.
#include "block.cuh"

constexpr int BINS = 2048;
constexpr int RUN = 16;  // neighbouring elements that one thread looks through
constexpr Index SPAN = THREADS * RUN;  // elements of a block

struct Search {
    unsigned threshold;  // bits found so far, from the top
    Index wanted;        // how many of those that share these bits are still to be taken
};

DEVICE unsigned magnitude(float x) { return bits_of(x) & MAGNITUDE; }

// One pass of a radix search: counts[d] += how many magnitudes have the digit d at `shift`, of those whose bits above
// are the ones found. Digits have `width` bits. Integers may be added in any order: the sum is the same.
extern "C" __global__ void count_digits(unsigned long long* __restrict__ counts, const float* __restrict__ x, Index n,
                                        const Search* __restrict__ search, int shift, int width) {
    __shared__ unsigned here[BINS];
    for (int bin = threadIdx.x; bin < BINS; bin += THREADS) here[bin] = 0;
    __syncthreads();
    const unsigned found = search->threshold >> (shift + width);
    const Team team = whole_grid();
    for (Index i = team.rank; i < n; i += team.size) {
        const unsigned bits = magnitude(x[i]);
        if (bits >> (shift + width) == found) atomicAdd(&here[bits >> shift & ((1u << width) - 1)], 1u);
    }
    __syncthreads();
    for (int bin = threadIdx.x; bin < BINS; bin += THREADS) {
        if (here[bin] != 0) atomicAdd(&counts[bin], static_cast<unsigned long long>(here[bin]));
    }
}

// The digit with which the search goes on: counted from the top, the one in which the last wanted magnitude lies.
// One block; the counts are zero again afterwards.
extern "C" __global__ void pick_digit(Search* __restrict__ search, unsigned long long* __restrict__ counts, int shift) {
    constexpr int EACH = BINS / THREADS;
    const Index wanted = search->wanted;
    const int top = BINS - 1 - static_cast<int>(threadIdx.x) * EACH;
    Index mine = 0, total;
    for (int bin = top; bin > top - EACH; bin--) mine += static_cast<Index>(counts[bin]);
    Index above = block_scan(mine, total);
    if (above < wanted && wanted <= above + mine) {
        int bin = top;
        while (above + static_cast<Index>(counts[bin]) < wanted) above += static_cast<Index>(counts[bin--]);
        search->threshold |= static_cast<unsigned>(bin) << shift;
        search->wanted = wanted - above;
    }
    __syncthreads();
    for (int bin = top; bin > top - EACH; bin--) counts[bin] = 0;
}

// Zeros are never selected: they carry nothing.
DEVICE bool selected(float x, unsigned threshold) { return magnitude(x) >= threshold && magnitude(x) != 0; }

DEVICE Index selected_in_run(const float* __restrict__ x, Index begin, Index n, unsigned threshold) {
    Index count = 0;
    for (Index i = begin; i < begin + RUN && i < n; i++) count += selected(x[i], threshold);
    return count;
}

// counts[b]: how many elements of span b are selected.
extern "C" __global__ void count_selected(Index* __restrict__ counts, const float* __restrict__ x, Index n,
                                          const Search* __restrict__ search) {
    for (Index span = blockIdx.x; span * SPAN < n; span += gridDim.x) {
        Index total;
        block_scan(selected_in_run(x, span * SPAN + threadIdx.x * RUN, n, search->threshold), total);
        if (threadIdx.x == 0) counts[span] = total;
    }
}

// counts[b] becomes the number selected before span b, counts[spans] the number of all. One block.
extern "C" __global__ void scan_counts(Index* __restrict__ counts, Index spans) {
    const Index each = (spans + THREADS - 1) / THREADS, begin = threadIdx.x * each;
    const Index end = begin + each < spans ? begin + each : spans;
    Index mine = 0, total;
    for (Index span = begin; span < end; span++) mine += counts[span];
    Index before = block_scan(mine, total);
    for (Index span = begin; span < end; span++) {
        const Index count = counts[span];
        counts[span] = before;
        before += count;
    }
    if (threadIdx.x == 0) counts[spans] = total;
}

// Indices rise, whatever order blocks run in. What is beyond `capacity` is not written; counts[spans] tells.
extern "C" __global__ void write_selected(int* __restrict__ indices, float* __restrict__ values, Index capacity,
                                          const float* __restrict__ x, Index n, const Search* __restrict__ search,
                                          const Index* __restrict__ counts) {
    const unsigned threshold = search->threshold;
    for (Index span = blockIdx.x; span * SPAN < n; span += gridDim.x) {
        const Index begin = span * SPAN + threadIdx.x * RUN;
        Index total;
        Index at = counts[span] + block_scan(selected_in_run(x, begin, n, threshold), total);
        for (Index i = begin; i < begin + RUN && i < n; i++) {
            if (!selected(x[i], threshold)) continue;
            if (at < capacity) {
                indices[at] = static_cast<int>(i);
                values[at] = x[i];
            }
            at++;
        }
    }
}

// out[indices[j]] += values[j]. Indices differ, so no two threads meet; one outside [0, n) is left out and flagged.
extern "C" __global__ void scatter_add(float* __restrict__ out, Index n, const int* __restrict__ indices,
                                       const float* __restrict__ values, Index count, int* __restrict__ outside) {
    const Team team = whole_grid();
    for (Index j = team.rank; j < count; j += team.size) {
        const int i = indices[j];
        if (i < 0 || i >= n) {
            *outside = 1;
        } else {
            out[i] = add(out[i], values[j]);
        }
    }
}
