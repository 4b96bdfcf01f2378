// Many small tensors into one flat buffer, so that they travel as one message, and back.
#include "numbers.cuh"

// Each block takes tiles; a tile lies in one tensor. Only the size of an element matters, not its type.
template <typename T> DEVICE void copy(T* __restrict__ into, const T* __restrict__ from, Index n) {
    constexpr int LANES = VECTOR / sizeof(T);
    spread<LANES>(whole_block(), n, aligned_from<LANES>(n, into, from), [=](auto width, Index i) {
        move<decltype(width)::lanes>(into + i, from + i);
    });
}

// Tensor s takes elements offsets[s] to offsets[s + 1] of the flat buffer.
template <typename T>
DEVICE void pack(T* flat, const T* const* tensors, const Index* offsets, const Tile* tiles, Index count) {
    for (Index t = blockIdx.x; t < count; t += gridDim.x) {
        const Tile tile = tiles[t];
        copy(flat + tile.begin, tensors[tile.segment] + (tile.begin - offsets[tile.segment]), tile.end - tile.begin);
    }
}

template <typename T>
DEVICE void unpack(T* const* tensors, const T* flat, const Index* offsets, const Tile* tiles, Index count) {
    for (Index t = blockIdx.x; t < count; t += gridDim.x) {
        const Tile tile = tiles[t];
        copy(tensors[tile.segment] + (tile.begin - offsets[tile.segment]), flat + tile.begin, tile.end - tile.begin);
    }
}

#define KERNELS(T, nbytes)                                                                                        \
    extern "C" __global__ void pack_##nbytes(T* __restrict__ flat, const T* const* __restrict__ tensors,          \
                                             const Index* __restrict__ offsets, const Tile* __restrict__ tiles,   \
                                             Index count) {                                                       \
        pack(flat, tensors, offsets, tiles, count);                                                               \
    }                                                                                                             \
    extern "C" __global__ void unpack_##nbytes(T* const* __restrict__ tensors, const T* __restrict__ flat,        \
                                               const Index* __restrict__ offsets, const Tile* __restrict__ tiles, \
                                               Index count) {                                                     \
        unpack(tensors, flat, offsets, tiles, count);                                                             \
    }

KERNELS(unsigned char, 1)
KERNELS(unsigned short, 2)
KERNELS(unsigned, 4)
KERNELS(unsigned long long, 8)
