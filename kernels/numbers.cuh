// What all kernels share: element types, arithmetic that gives NumPy's bits, and loops over buffers.
//
// CuPy compiles every module with -ftz=true, which flushes subnormal float32 to zero, and compilers like to fuse a
// multiplication with an addition. Both change bits, so arithmetic that must agree with the host is written in PTX,
// whose instructions no option changes: add.rn.f32 rounds once, to nearest, and keeps subnormals.
#pragma once

using Index = long long;

#define DEVICE __device__ __forceinline__

constexpr int THREADS = 256;  // of every block
constexpr int WARP = 32;
constexpr int VECTOR = 16;  // bytes, the widest load there is

// ---- element types: a half type is its 16 bits, and is computed with in float32

struct Half {
    unsigned short bits;
};

struct Bfloat16 {
    unsigned short bits;
};

template <typename T> struct WideOf { using type = T; };
template <> struct WideOf<Half> { using type = float; };
template <> struct WideOf<Bfloat16> { using type = float; };
template <typename T> using Wide = typename WideOf<T>::type;

#define FOR_HALVES(X) X(Half, float16) X(Bfloat16, bfloat16)
#define FOR_FLOATS(X) X(double, float64) X(float, float32) FOR_HALVES(X)
#define FOR_INTEGERS(X) X(int, int32) X(Index, int64)
#define FOR_ALL(X) FOR_FLOATS(X) FOR_INTEGERS(X)

// ---- bits

constexpr unsigned MAGNITUDE = 0x7fffffffu, INFINITE = 0x7f800000u, QUIET = 0x00400000u;
constexpr unsigned long long INFINITE_64 = 0x7ff0000000000000ull, QUIET_64 = 0x0008000000000000ull;

DEVICE unsigned bits_of(float x) { return __float_as_uint(x); }
DEVICE unsigned long long bits_of(double x) { return static_cast<unsigned long long>(__double_as_longlong(x)); }
DEVICE float float_of(unsigned bits) { return __uint_as_float(bits); }
DEVICE double double_of(unsigned long long bits) { return __longlong_as_double(static_cast<long long>(bits)); }

DEVICE bool is_nan(float x) { return (bits_of(x) & MAGNITUDE) > INFINITE; }
DEVICE bool is_nan(double x) { return (bits_of(x) << 1) > (INFINITE_64 << 1); }
DEVICE bool is_nan(int) { return false; }
DEVICE bool is_nan(Index) { return false; }
DEVICE bool is_finite(float x) { return (bits_of(x) & MAGNITUDE) < INFINITE; }

DEVICE float quiet(float x) { return float_of(bits_of(x) | QUIET); }
DEVICE double quiet(double x) { return double_of(bits_of(x) | QUIET_64); }

// The NaN of inf - inf has the sign that the host's processor gives it.
#ifndef NEW_NAN_SIGN
#define NEW_NAN_SIGN 1u
#endif
template <typename F> DEVICE F new_nan();
template <> DEVICE float new_nan<float>() { return float_of(NEW_NAN_SIGN << 31 | INFINITE | QUIET); }
template <> DEVICE double new_nan<double>() {
    return double_of(static_cast<unsigned long long>(NEW_NAN_SIGN) << 63 | INFINITE_64 | QUIET_64);
}

// ---- arithmetic as IEEE 754 has it

#ifdef __CUDACC__
#define ROUNDED(name, ptx, in_cpp)                                      \
    DEVICE float name(float a, float b) {                               \
        float result;                                                   \
        asm(ptx ".rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b)); \
        return result;                                                  \
    }                                                                   \
    DEVICE double name(double a, double b) {                            \
        double result;                                                  \
        asm(ptx ".rn.f64 %0, %1, %2;" : "=d"(result) : "d"(a), "d"(b)); \
        return result;                                                  \
    }
#define CONVERTED(name, To, From, ptx, to, from)                  \
    DEVICE To name(From x) {                                      \
        To result;                                                \
        asm(ptx " %0, %1;" : "=" to(result) : from(x));           \
        return result;                                            \
    }
DEVICE bool exceeds(float a, float b) {
    unsigned yes;
    asm("set.gt.u32.f32 %0, %1, %2;" : "=r"(yes) : "f"(a), "f"(b));
    return yes != 0;
}
CONVERTED(rounded_to_half, unsigned short, float, "cvt.rn.f16.f32", "h", "f")
CONVERTED(widened_from_half, float, unsigned short, "cvt.f32.f16", "f", "h")
CONVERTED(rounded_to_float, float, double, "cvt.rn.f32.f64", "f", "d")
CONVERTED(widened_to_double, double, float, "cvt.f64.f32", "d", "f")
#else  // a host compiler, told not to contract, with conversions of half types of its own
#define ROUNDED(name, ptx, in_cpp)                             \
    DEVICE float name(float a, float b) { return in_cpp; }     \
    DEVICE double name(double a, double b) { return in_cpp; }
DEVICE bool exceeds(float a, float b) { return a > b; }
DEVICE unsigned short rounded_to_half(float x) { return host_float_to_half(x); }
DEVICE float widened_from_half(unsigned short bits) { return host_half_to_float(bits); }
DEVICE float rounded_to_float(double x) { return static_cast<float>(x); }
DEVICE double widened_to_double(float x) { return static_cast<double>(x); }
#endif

ROUNDED(rounded_sum, "add", a + b)
ROUNDED(rounded_difference, "sub", a - b)
ROUNDED(rounded_product, "mul", a * b)
ROUNDED(rounded_quotient, "div", a / b)

DEVICE bool exceeds(double a, double b) { return a > b; }
DEVICE bool exceeds(int a, int b) { return a > b; }
DEVICE bool exceeds(Index a, Index b) { return a > b; }

// Of two NaNs the left one stays; one that comes out of numbers is new.
template <typename F> DEVICE F with_nan(F a, F b, F result) {
    if (is_nan(a)) return quiet(a);
    if (is_nan(b)) return quiet(b);
    return is_nan(result) ? new_nan<F>() : result;
}

template <typename F> DEVICE F add(F a, F b) { return with_nan(a, b, rounded_sum(a, b)); }
template <typename F> DEVICE F subtract(F a, F b) { return with_nan(a, b, rounded_difference(a, b)); }
template <typename F> DEVICE F multiply(F a, F b) { return with_nan(a, b, rounded_product(a, b)); }
template <typename F> DEVICE F divide(F a, F b) { return with_nan(a, b, rounded_quotient(a, b)); }

// Integers wrap, which C++ promises for unsigned ones only.
DEVICE int add(int a, int b) { return static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b)); }
DEVICE int multiply(int a, int b) { return static_cast<int>(static_cast<unsigned>(a) * static_cast<unsigned>(b)); }
DEVICE Index add(Index a, Index b) {
    return static_cast<Index>(static_cast<unsigned long long>(a) + static_cast<unsigned long long>(b));
}
DEVICE Index multiply(Index a, Index b) {
    return static_cast<Index>(static_cast<unsigned long long>(a) * static_cast<unsigned long long>(b));
}

// ---- conversions: NaNs keep sign and the payload there is room for, become quiet; bfloat16 keeps the sign alone

template <typename T> struct As {};

DEVICE float convert(As<float>, Half x) {
    unsigned sign = (x.bits & 0x8000u) << 16, payload = (x.bits & 0x3ffu) << 13;
    bool nan = (x.bits & 0x7fffu) > 0x7c00u;
    return nan ? float_of(sign | INFINITE | QUIET | payload) : widened_from_half(x.bits);
}
DEVICE float convert(As<float>, Bfloat16 x) { return float_of(static_cast<unsigned>(x.bits) << 16); }
DEVICE float convert(As<float>, double x) {
    if (!is_nan(x)) return rounded_to_float(x);
    unsigned long long bits = bits_of(x);
    unsigned payload = static_cast<unsigned>(bits >> 29) & (QUIET - 1);
    return float_of(static_cast<unsigned>(bits >> 63) << 31 | INFINITE | QUIET | payload);
}
DEVICE Half convert(As<Half>, float x) {
    unsigned nan = (bits_of(x) >> 16 & 0x8000u) | 0x7e00u | (bits_of(x) >> 13 & 0x1ffu);
    return {is_nan(x) ? static_cast<unsigned short>(nan) : rounded_to_half(x)};
}
DEVICE Bfloat16 convert(As<Bfloat16>, float x) {
    unsigned bits = bits_of(x), odd = bits >> 16 & 1u;
    unsigned nan = (bits >> 16 & 0x8000u) | 0x7fc0u;
    return {static_cast<unsigned short>(is_nan(x) ? nan : (bits + 0x7fffu + odd) >> 16)};  // half to even
}
DEVICE double convert(As<double>, float x) {
    if (!is_nan(x)) return widened_to_double(x);
    unsigned long long sign = bits_of(x) >> 31, payload = bits_of(x) & (QUIET - 1);
    return double_of(sign << 63 | INFINITE_64 | QUIET_64 | payload << 29);
}
template <typename T> DEVICE T convert(As<T>, T x) { return x; }
// The others, between float64 and half types and from one half type to the other, go by way of float32.
template <typename To, typename From> DEVICE To convert(As<To>, From x) {
    return convert(As<To>{}, convert(As<float>{}, x));
}

template <typename To, typename From> DEVICE To to(From x) { return convert(As<To>{}, x); }

// ---- N elements that are loaded and stored at once

template <typename T, int N> struct alignas(sizeof(T) * N) Pack {
    T lane[N];
};

// What memory is moved in: the compiler splits loads of other structures into their elements when it likes.
template <int nbytes> struct WordsOf;
template <> struct WordsOf<16> { using type = uint4; };
template <> struct WordsOf<8> { using type = uint2; };
template <> struct WordsOf<4> { using type = unsigned; };
template <> struct WordsOf<2> { using type = unsigned short; };
template <> struct WordsOf<1> { using type = unsigned char; };
template <typename T> using Words = typename WordsOf<sizeof(T)>::type;

template <int N, typename T> DEVICE void move(T* into, const T* from) {
    using Moved = Words<Pack<T, N>>;
    *reinterpret_cast<Moved*>(into) = *reinterpret_cast<const Moved*>(from);
}
template <int N, typename T> DEVICE Pack<T, N> load(const T* from) {
    const Words<Pack<T, N>> words = *reinterpret_cast<const Words<Pack<T, N>>*>(from);
    Pack<T, N> pack;
    memcpy(&pack, &words, sizeof(pack));
    return pack;
}
template <typename T, int N> DEVICE void store(T* into, const Pack<T, N>& pack) {
    Words<Pack<T, N>> words;
    memcpy(&words, &pack, sizeof(words));
    *reinterpret_cast<Words<Pack<T, N>>*>(into) = words;
}

// ---- loops: a team of threads, all of a grid or all of a block, strides over [0, n)

struct Team {
    Index rank, size;
};

DEVICE Team whole_grid() {
    return {static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x, static_cast<Index>(gridDim.x) * blockDim.x};
}
DEVICE Team whole_block() { return {static_cast<Index>(threadIdx.x), static_cast<Index>(blockDim.x)}; }

// Elements from a pointer to the first address that is a multiple of N elements.
template <int N, typename T> DEVICE Index lead(const T* pointer) {
    return static_cast<Index>(-(reinterpret_cast<unsigned long long>(pointer) / sizeof(T)) % N);
}

// The first element at which all pointers are aligned to N elements; n if there is none, so that nothing is vectorised.
template <int N, typename First, typename... Rest>
DEVICE Index aligned_from(Index n, const First* first, const Rest*... rest) {
    Index start = lead<N>(first);
    bool alike = ((lead<N>(rest) == start) && ...);
    return alike && start < n ? start : n;
}

template <int N> struct Width {
    static constexpr int lanes = N;
};

// Calls body(Width<N>, i) for packs of N from element `start` on, and body(Width<1>, i) for what is before and behind.
template <int N, typename Body> DEVICE void spread(Team team, Index n, Index start, Body body) {
    Index packs = (n - start) / N, others = n - packs * N;
    for (Index i = team.rank; i < packs; i += team.size) body(Width<N>{}, start + i * N);
    for (Index i = team.rank; i < others; i += team.size) body(Width<1>{}, i < start ? i : i + packs * N);
}

// ---- a flat buffer in tiles, none of which crosses from one segment (layer, tensor) into the next

struct Tile {
    Index begin, end, segment;
};
