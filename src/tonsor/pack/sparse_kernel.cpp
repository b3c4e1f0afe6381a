// out = W x + b for a sparse W: rows of values and of indices, an index of 16 or 32 bits.
//
// The lanes of a vector are columns (samples, or places of an image), so that one weight meets 64 of them at
// once and nothing is gathered. Vectors are the compiler's own: AVX-512, AVX2, or whatever there is.
//
// x and out are feature-major (a feature's columns lie side by side) or column-major (a column's features lie
// side by side). What is column-major is transposed on the way in and out, tile by tile, in the cache.

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#define LOWER 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define UPPER 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX__)
constexpr int LANES = 8;
#define LOWER 0, 8, 1, 9, 2, 10, 3, 11
#define UPPER 4, 12, 5, 13, 6, 14, 7, 15
#else
constexpr int LANES = 4;
#define LOWER 0, 4, 1, 5
#define UPPER 2, 6, 3, 7
#endif
constexpr int MOST = LANES == 16 ? 4 : 8;  // vectors of sums: they stay in registers and hide what an FMA takes
constexpr int TILE = MOST * LANES;         // columns at once

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef float Loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline Lanes load(const float* from) { return *reinterpret_cast<const Loose*>(from); }
inline void store(float* to, Lanes lanes) { *reinterpret_cast<Loose*>(to) = lanes; }

struct View {
    float* start;
    int64_t feature, column, sample;  // how many floats from one to the next
    const int32_t* places;            // where each feature starts, if not at even steps
};

template <typename Index>
struct Weight {
    const float* values;
    const Index* index;
    const int32_t* pointers;
    int64_t rows, features;
    const float* bias;
};

// Interleaving the lower with the upper half of the rows, as often as the lanes can be halved, transposes.
inline void transpose(Lanes* rows) {
    for (int round = 1; round < LANES; round *= 2) {
        Lanes mixed[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            Lanes a = rows[i], b = rows[i + LANES / 2];
            mixed[2 * i] = __builtin_shufflevector(a, b, LOWER);
            mixed[2 * i + 1] = __builtin_shufflevector(a, b, UPPER);
        }
        for (int i = 0; i < LANES; i++) rows[i] = mixed[i];
    }
}

// One row of the weight over WIDE vectors of columns. Where these are few, several weights are under way at
// once, each with sums of its own, since a sum has to wait for the one before.
template <int WIDE, typename Index, bool PLACES>
inline void row_sums(const Weight<Index>& w, int64_t row, const float* x, int64_t step, const int32_t* places,
                     Lanes* sums) {
    constexpr int DEEP = WIDE * 2 > MOST ? 1 : MOST / WIDE;
    auto from = [&](int64_t j) { return x + (PLACES ? int64_t(places[w.index[j]]) : w.index[j] * step); };
    Lanes total[DEEP][WIDE];
    for (int d = 0; d < DEEP; d++)
        for (int v = 0; v < WIDE; v++) total[d][v] = Lanes{} + (d || !w.bias ? 0.0f : w.bias[row]);
    int64_t j = w.pointers[row], end = w.pointers[row + 1];
    for (; j + DEEP <= end; j += DEEP)
        for (int d = 0; d < DEEP; d++)
            for (int v = 0; v < WIDE; v++) total[d][v] += w.values[j + d] * load(from(j + d) + v * LANES);
    for (; j < end; j++)
        for (int v = 0; v < WIDE; v++) total[0][v] += w.values[j] * load(from(j) + v * LANES);
    for (int v = 0; v < WIDE; v++) {
        sums[v] = total[0][v];
        for (int d = 1; d < DEEP; d++) sums[v] += total[d][v];
    }
}

// As many rows of the weight as a vector has lanes, over WIDE vectors of columns; `count` columns are there.
template <int WIDE, typename Index, bool PLACES>
void row_block(const Weight<Index>& w, int64_t first, const float* x, int64_t step, const int32_t* places,
               const View& out, float* to, int64_t count) {
    Lanes sums[LANES][WIDE];
    int64_t rows = w.rows - first < LANES ? w.rows - first : LANES;
    for (int64_t r = 0; r < rows; r++) {
        row_sums<WIDE, Index, PLACES>(w, first + r, x, step, places, sums[r]);
        for (int v = 0; v < WIDE && out.column == 1; v++) {
            int64_t left = count - v * LANES;
            float* at = to + (first + r) * out.feature + v * LANES;
            if (left >= LANES) store(at, sums[r][v]);
            else if (left > 0) memcpy(at, &sums[r][v], left * sizeof(float));
        }
    }
    for (int v = 0; v < WIDE && out.column != 1; v++) {
        Lanes turned[LANES];
        for (int r = 0; r < LANES; r++) turned[r] = r < rows ? sums[r][v] : Lanes{};
        transpose(turned);
        for (int64_t c = 0; c < LANES && v * LANES + c < count; c++) {
            float* at = to + (v * LANES + c) * out.column + first;
            if (rows == LANES) store(at, turned[c]);
            else memcpy(at, &turned[c], rows * sizeof(float));
        }
    }
}

template <typename Index, bool PLACES>
void one_tile(const Weight<Index>& w, const float* x, int64_t step, const int32_t* places, const View& out,
              float* to, int64_t count, int threads) {
    int64_t wide = (count + LANES - 1) / LANES;
#define CASE(W) \
    case W: row_block<(W <= MOST ? W : 1), Index, PLACES>(w, first, x, step, places, out, to, count); break;
#pragma omp parallel for schedule(dynamic, 8) num_threads(threads) if (threads > 1)
    for (int64_t first = 0; first < w.rows; first += LANES)
        switch (wide) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) }
#undef CASE
}

// One column: each weight meets one number, so eight sums run side by side.
template <typename Index>
void one_column(const Weight<Index>& w, const float* x, int64_t step, float* out, int64_t out_step, int threads) {
#pragma omp parallel for schedule(dynamic, 128) num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < w.rows; row++) {
        float sums[8] = {}, rest = w.bias ? w.bias[row] : 0.0f;
        int64_t j = w.pointers[row], end = w.pointers[row + 1];
        for (; j + 8 <= end; j += 8)
            for (int k = 0; k < 8; k++) sums[k] += w.values[j + k] * x[w.index[j + k] * step];
        for (; j < end; j++) rest += w.values[j] * x[w.index[j] * step];
        for (int half = 4; half; half /= 2)
            for (int k = 0; k < half; k++) sums[k] += sums[k + half];
        out[row * out_step] = sums[0] + rest;
    }
}

// `count` columns of x, feature-major in the scratch, `wide` to a feature; zeros behind the last.
void gather(const View& x, const float* from, int64_t features, int64_t count, int64_t wide, float* scratch) {
    if (x.column == 1) {
        for (int64_t i = 0; i < features; i++) {
            memcpy(scratch + i * wide, from + (x.places ? x.places[i] : i * x.feature), count * sizeof(float));
            memset(scratch + i * wide + count, 0, (wide - count) * sizeof(float));
        }
        return;
    }
    for (int64_t i = 0; i < features; i += LANES) {
        int64_t there = features - i < LANES ? features - i : LANES;
        for (int64_t c = 0; c < wide; c += LANES) {
            Lanes rows[LANES];
            for (int64_t r = 0; r < LANES; r++) {
                rows[r] = Lanes{};
                if (c + r >= count) continue;
                if (there == LANES) rows[r] = load(from + (c + r) * x.column + i);
                else memcpy(&rows[r], from + (c + r) * x.column + i, there * sizeof(float));
            }
            transpose(rows);
            for (int64_t k = 0; k < there; k++) store(scratch + (i + k) * wide + c, rows[k]);
        }
    }
}

template <typename Index>
void multiply(const Weight<Index>& w, const View& x, const View& out, int64_t columns, int64_t samples,
              int threads) {
    int64_t tiles = (columns + TILE - 1) / TILE;
    int outer = samples * tiles >= 2 * threads ? threads : 1;  // tiles side by side, or the rows of one
    int inner = outer > 1 ? 1 : threads;
    if (columns == 1 && samples == 1 && !x.places)
        return one_column(w, x.start, x.feature, out.start, out.feature, threads);
#pragma omp parallel for schedule(static) num_threads(outer) if (outer > 1)
    for (int64_t t = 0; t < samples * tiles; t++) {
        int64_t first = t % tiles * TILE;
        int64_t count = columns - first < TILE ? columns - first : TILE;
        int64_t wide = (count + LANES - 1) / LANES * LANES;
        const float* from = x.start + t / tiles * x.sample + first * x.column;
        float* to = out.start + t / tiles * out.sample + first * out.column;
        if (x.column == 1 && count == wide && x.places) {
            one_tile<Index, true>(w, from, 0, x.places, out, to, count, inner);
        } else if (x.column == 1 && count == wide) {
            one_tile<Index, false>(w, from, x.feature, nullptr, out, to, count, inner);
        } else {
            static thread_local std::vector<Lanes> kept;  // aligned: a load across two lines takes twice as long
            int64_t needed = w.features * wide / LANES;
            if (int64_t(kept.size()) < needed) kept.resize(needed);
            float* scratch = reinterpret_cast<float*>(kept.data());
            gather(x, from, w.features, count, wide, scratch);
            one_tile<Index, false>(w, scratch, wide, nullptr, out, to, count, inner);
        }
    }
}

}  // namespace

// sizes: rows, features, columns, samples, threads, bits of an index; then how many floats lie between
// features, columns and samples, of x and of out. places: where each feature starts in a sample, or null.
extern "C" void tonsor_sparse(const float* values, const void* index, const int32_t* pointers, const float* bias,
                              const float* x, const int32_t* places, float* out, const int64_t* sizes) {
    View from{const_cast<float*>(x), sizes[6], sizes[7], sizes[8], places};
    View to{out, sizes[9], sizes[10], sizes[11], nullptr};
    int threads = int(sizes[4]);
    if (sizes[5] == 16) {
        Weight<uint16_t> weight{values, static_cast<const uint16_t*>(index), pointers, sizes[0], sizes[1], bias};
        multiply(weight, from, to, sizes[2], sizes[3], threads);
    } else {
        Weight<int32_t> weight{values, static_cast<const int32_t*>(index), pointers, sizes[0], sizes[1], bias};
        multiply(weight, from, to, sizes[2], sizes[3], threads);
    }
}
