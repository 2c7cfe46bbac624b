/* Times functions of one signature side by side and checks what they write; runs in a child.

   Function 0 is the baseline. Every function takes the addresses of the arrays in their order. The
   state lies in a file shared with the parent, which reads from it who was running when this
   process died, and starts another one that goes on from there. */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

enum { IN, OUT, INOUT, TEMP };
enum { FLOAT32, FLOAT64, INT32 };
enum { WAITING, OK, SLOW, WRONG, CRASH, TIMEOUT };

#define HUGE_PAGE (2l << 20)
#define PAGE 4096l
#define STAGGER 192l /* bytes; arrays on equal page offsets would alias in the store buffer */
#define GUARD 64l    /* bytes between arrays, at least; see guards_are_intact */
#define GUARD_BYTE 0xA5
#define POISON_BYTE 0xFF /* a NaN, or -1, where nothing was written yet */
#define BASELINE_SLOTS 3 /* the baseline's error is common to all ratios */
#define SAMPLE 3         /* numbers of a sample: CPU seconds, wall seconds, pace */
#define PACE_STEPS 500   /* some 3 us */
#define CALIBRATION 300  /* paces to begin with */

/* An array is filled with low + (0, 1, ..., steps - 1) * step at random; `diagonal` is added to
   the diagonal of an n_diagonal x n_diagonal array. */
typedef struct {
    int64_t n_items;
    double low, step, diagonal;
    int64_t steps, n_diagonal;
    int32_t dtype, role;
} Array;

/* is_wall: timed by the wall clock, as other threads work too */
typedef struct {
    int32_t status, is_wall;
    int64_t n_samples, repeats;
    double error;      /* largest difference to the baseline over its largest value */
    double estimate_s; /* one warm call */
} Record;

/* current: the function being run, -1 between them;  n_not_finite: among the baseline's results
   pace_s: the fastest seen */
typedef struct {
    int64_t current, progress, n_not_finite;
    double overhead_s, pace_s;
} State;

typedef struct {
    int64_t seed;
    double rtol;               /* of the check: float32 */
    double rtol_double;        /* of the check: float64 */
    double min_sample_s;       /* shorter calls are repeated */
    double slow_s, slow_ratio; /* beyond both a variant is timed once */
    double wanted_noise;       /* more passes for those above it */
    double budget_s;           /* of a session's passes; at least one is made */
    double timeout_s;          /* CPU seconds of one call, over all threads */
    double quiet_ratio;        /* the core is alone up to this pace over the fastest */
    double wait_s;             /* of a session, until the core is alone */
    int64_t min_passes, max_passes, capacity;
    int32_t is_arena, is_exact;
} Config;

typedef void (*Function)(void **);

static int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

static int64_t item_bytes(const Array *array) { return array->dtype == FLOAT64 ? 8 : 4; }

static int64_t bytes_of(const Array *array) { return array->n_items * item_bytes(array); }

static int is_given(const Array *array) { return array->role == IN || array->role == INOUT; }

static int is_result(const Array *array) { return array->role == OUT || array->role == INOUT; }

/* --- memory --------------------------------------------------------------------------------- */

/* All arrays in one block of huge pages at offsets that never change: fresh pages for each array
   would give every process a bias of its own that no number of passes removes. */
static int place_arena(const Array *arrays, int n_arrays, void **at, char **block, int64_t *size) {
    int64_t offset = GUARD;
    for (int a = 0; a < n_arrays; a++) {
        offset = round_up(offset, PAGE) + STAGGER * a;
        at[a] = (void *)offset;
        offset += bytes_of(arrays + a) + GUARD;
    }
    *size = round_up(offset, HUGE_PAGE);
    char *mapped = mmap(NULL, *size + HUGE_PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return errno;
    *block = (char *)round_up((int64_t)mapped, HUGE_PAGE);
    madvise(*block, *size, MADV_HUGEPAGE);
    memset(*block, GUARD_BYTE, *size);
    for (int a = 0; a < n_arrays; a++) at[a] = *block + (int64_t)at[a];
    return 0;
}

/* What programs usually do: an allocation for each array. Only to measure what it costs. */
static int place_apart(const Array *arrays, int n_arrays, void **at) {
    for (int a = 0; a < n_arrays; a++)
        if (posix_memalign(&at[a], 64, bytes_of(arrays + a) + GUARD)) return ENOMEM;
    return 0;
}

/* Nothing was written between the arrays of the arena. */
static int guards_are_intact(const Array *arrays, int n_arrays, void **at, const char *block,
                             int64_t size) {
    const char *next = block;
    for (int a = 0; a <= n_arrays; a++) {
        const char *end = a < n_arrays ? at[a] : block + size;
        for (const char *byte = next; byte < end && byte < next + 2 * PAGE; byte++)
            if (*(const unsigned char *)byte != GUARD_BYTE) return 0;
        if (a < n_arrays) next = end + bytes_of(arrays + a);
    }
    return 1;
}

/* --- contents ------------------------------------------------------------------------------- */

/* splitmix64 of seed, array and item. */
static uint64_t random_bits(uint64_t seed, uint64_t array, uint64_t item) {
    uint64_t z = seed + (array << 40) + (item + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

static void fill(const Array *array, int number, int64_t seed, void *at) {
    int64_t n = array->n_diagonal;
    for (int64_t i = 0; i < array->n_items; i++) {
        uint64_t steps = (random_bits(seed, number, i) >> 11) % (uint64_t)array->steps;
        double value = array->low + array->step * (double)steps;
        if (n && i % (n + 1) == 0) value += array->diagonal;
        if (array->dtype == FLOAT32) ((float *)at)[i] = (float)value;
        else if (array->dtype == FLOAT64) ((double *)at)[i] = value;
        else ((int32_t *)at)[i] = (int32_t)value;
    }
}

static void fill_all(const Array *arrays, int n_arrays, int64_t seed, void **at) {
    for (int a = 0; a < n_arrays; a++) {
        if (is_given(arrays + a)) fill(arrays + a, a, seed, at[a]);
        else memset(at[a], POISON_BYTE, bytes_of(arrays + a));
    }
}

static double item(const Array *array, const void *at, int64_t i) {
    if (array->dtype == FLOAT32) return ((const float *)at)[i];
    if (array->dtype == FLOAT64) return ((const double *)at)[i];
    return ((const int32_t *)at)[i];
}

/* Items that are no numbers, besides those that still hold the poison of a place not written. */
static int64_t n_not_finite(const Array *array, const void *at) {
    const int64_t bytes = item_bytes(array);
    const uint64_t poison = ~(uint64_t)0;
    int64_t n = 0;
    for (int64_t i = 0; i < array->n_items; i++)
        n += !isfinite(item(array, at, i)) && memcmp((const char *)at + i * bytes, &poison, bytes);
    return n;
}

/* Largest |got - wanted| over the largest |wanted|; infinite where one of them is not a number and
   the other is. */
static double difference(const Array *array, const void *got, const void *wanted) {
    if (memcmp(got, wanted, bytes_of(array)) == 0) return 0;
    double largest = 0, scale = 0;
    for (int64_t i = 0; i < array->n_items; i++) {
        double x = item(array, got, i), y = item(array, wanted, i);
        if (isfinite(y)) scale = fmax(scale, fabs(y));
        if (x == y || (isnan(x) && isnan(y))) continue;
        double apart = fabs(x - y);
        largest = fmax(largest, isnan(apart) ? INFINITY : apart);
    }
    return scale > 0 ? largest / scale : largest;
}

/* --- running -------------------------------------------------------------------------------- */

typedef struct {
    const Function *functions;
    void **at;
    State *state;
    const Config *config;
} Runner;

/* SIGPROF ends this process if the call is still running then. */
static void arm(double seconds) {
    struct itimerval timer = {{0, 0}, {0, 0}};
    timer.it_value.tv_sec = (time_t)seconds;
    timer.it_value.tv_usec = (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6);
    setitimer(ITIMER_PROF, &timer, NULL);
}

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of `repeats` calls, each of them, by CPU and by wall clock. */
static void timed(const Runner *runner, int64_t f, int64_t repeats, double *cpu, double *wall) {
    runner->state->current = f;
    runner->state->progress++;
    arm(runner->config->timeout_s);
    double cpu_0 = now(CLOCK_THREAD_CPUTIME_ID), wall_0 = now(CLOCK_MONOTONIC);
    for (int64_t r = 0; r < repeats; r++) runner->functions[f](runner->at);
    double wall_1 = now(CLOCK_MONOTONIC), cpu_1 = now(CLOCK_THREAD_CPUTIME_ID);
    arm(0);
    runner->state->current = -1;
    *cpu = (cpu_1 - cpu_0 - runner->state->overhead_s) / (double)repeats;
    *wall = (wall_1 - wall_0) / (double)repeats;
}

static double by_own_clock(const Record *record, double cpu, double wall) {
    return record->is_wall ? wall : cpu;
}

/* What the clocks themselves take of the CPU time. */
static double clock_overhead(void) {
    double least = INFINITY;
    for (int i = 0; i < 1000; i++) {
        double cpu_0 = now(CLOCK_THREAD_CPUTIME_ID);
        (void)now(CLOCK_MONOTONIC);
        (void)now(CLOCK_MONOTONIC);
        least = fmin(least, now(CLOCK_THREAD_CPUTIME_ID) - cpu_0);
    }
    return least;
}

/* --- whether anybody else is at work ------------------------------------------------------------

   A core may be half of one that is shared: while a stranger's thread runs on the other half, code
   takes 1.3 to 4 times as long by every clock, more or less according to what it does, so that
   ratios are wrong too. Such spells last from microseconds to seconds. A fixed computation that
   fills the units of a core shows them: its time just before and after a sample says whether the
   sample was taken alone. */

typedef float Lanes __attribute__((vector_size(32)));
static volatile float sink;

/* Wall seconds of the fixed computation. */
static double pace(State *state) {
    Lanes sums[10], factor;
    for (int lane = 0; lane < 8; lane++) factor[lane] = 0.999f;
    for (int i = 0; i < 10; i++) sums[i] = factor * (float)i;
    double begin = now(CLOCK_MONOTONIC);
    for (int step = 0; step < PACE_STEPS; step++)
        for (int i = 0; i < 10; i++) sums[i] = sums[i] * factor + factor;
    double seconds = now(CLOCK_MONOTONIC) - begin;
    for (int i = 0; i < 10; i++) sink += sums[i][0];
    state->pace_s = fmin(state->pace_s, seconds);
    return seconds;
}

/* Returns the pace when the core was alone or the time for waiting was over. */
static double wait_until_quiet(const Runner *runner, double *left_s) {
    for (;;) {
        double seconds = pace(runner->state);
        if (seconds <= runner->config->quiet_ratio * runner->state->pace_s || *left_s <= 0)
            return seconds;
        *left_s -= seconds;
    }
}

/* Taken alone, and not interrupted either: then both clocks agree. */
static int is_quiet(const Runner *runner, const Record *record, const double *sample) {
    double apart = record->is_wall ? 0 : fabs(sample[0] - sample[1]) / sample[1];
    return sample[2] <= runner->config->quiet_ratio * runner->state->pace_s &&
           apart <= runner->config->quiet_ratio - 1;
}

/* Half-split noise of a session's quiet samples: |min of the even - min of the odd| over the least;
   n_quiet: their number. */
static double half_split(const Runner *runner, const Record *record, const double *samples,
                         int64_t n, int64_t *n_quiet) {
    double least[2] = {INFINITY, INFINITY};
    *n_quiet = 0;
    for (int64_t s = 0; s < n; s++) {
        const double *sample = samples + SAMPLE * s;
        if (!is_quiet(runner, record, sample)) continue;
        int64_t half = (*n_quiet)++ % 2;
        least[half] = fmin(least[half], by_own_clock(record, sample[0], sample[1]));
    }
    return *n_quiet < 2 ? INFINITY : fabs(least[0] - least[1]) / fmin(least[0], least[1]);
}

/* samples: [function][capacity][cpu, wall, pace], those of earlier sessions first.
   Returns 0, or an errno for memory that could not be had. */
__attribute__((visibility("default"))) int measure(const Function *functions, int64_t n_functions,
                                                   const Array *arrays, int64_t n_arrays,
                                                   const Config *config, State *state,
                                                   Record *records, double *samples) {
    void *at[n_arrays + 1], *kept[n_arrays + 1], *first[n_arrays + 1];
    char *block = NULL;
    int64_t size = 0;
    int failed = config->is_arena ? place_arena(arrays, (int)n_arrays, at, &block, &size)
                                  : place_apart(arrays, (int)n_arrays, at);
    if (failed) return failed;
    Runner runner = {functions, at, state, config};
    state->current = -1;
    state->overhead_s = clock_overhead();
    if (!(state->pace_s > 0)) state->pace_s = INFINITY;
    for (int i = 0; i < CALIBRATION; i++) (void)pace(state);
    double wait_s = config->wait_s;
    double cpu, wall;

    /* The baseline's results, and what its inputs were. */
    fill_all(arrays, (int)n_arrays, config->seed, at);
    for (int a = 0; a < n_arrays; a++) {
        kept[a] = first[a] = NULL;
        if (arrays[a].role == INOUT) {
            if (!(first[a] = malloc(bytes_of(arrays + a) + 1))) return ENOMEM;
            memcpy(first[a], at[a], bytes_of(arrays + a));
        }
    }
    timed(&runner, 0, 1, &cpu, &wall);
    state->n_not_finite = 0;
    for (int a = 0; a < n_arrays; a++) {
        if (!is_result(arrays + a)) continue;
        if (!(kept[a] = malloc(bytes_of(arrays + a) + 1))) return ENOMEM;
        memcpy(kept[a], at[a], bytes_of(arrays + a));
        state->n_not_finite += n_not_finite(arrays + a, at[a]);
    }
    if (records[0].status == WAITING && config->is_arena &&
        !guards_are_intact(arrays, (int)n_arrays, at, block, size))
        records[0].status = WRONG;
    if (records[0].status == WRONG) return 0;

    /* Every function once against them. */
    for (int64_t f = 0; f < n_functions; f++) {
        Record *record = records + f;
        if (record->status != WAITING) continue;
        fill_all(arrays, (int)n_arrays, config->seed, at);
        timed(&runner, f, 1, &cpu, &wall);
        record->error = 0;
        double over = 0; /* error over what is allowed, at most */
        for (int a = 0; a < n_arrays; a++) {
            if (!kept[a]) continue;
            double error = difference(arrays + a, at[a], kept[a]);
            double allowed = arrays[a].dtype == FLOAT64 ? config->rtol_double : config->rtol;
            if (config->is_exact || arrays[a].dtype == INT32) over += error > 0 ? 2 : 0;
            else over = fmax(over, error / allowed);
            record->error = fmax(record->error, error);
        }
        if (config->is_arena && !guards_are_intact(arrays, (int)n_arrays, at, block, size)) {
            memset(block, GUARD_BYTE, size);
            record->error = INFINITY;
            over = 2;
        }
        if (over > 1) {
            record->status = WRONG;
            continue;
        }
        record->estimate_s = by_own_clock(record, cpu, wall);
        double slow = fmax(config->slow_s, config->slow_ratio * records[0].estimate_s);
        if (f == 0 || record->estimate_s <= slow) {
            timed(&runner, f, 1, &cpu, &wall);
            record->estimate_s = by_own_clock(record, cpu, wall);
        }
        record->status = OK;
        if (f > 0 && record->estimate_s > slow) {
            record->status = SLOW;
            record->n_samples = 1;
            double *sample = samples + SAMPLE * f * config->capacity;
            sample[0] = cpu, sample[1] = wall, sample[2] = pace(state);
        }
        record->repeats = (int64_t)ceil(config->min_sample_s / fmax(record->estimate_s, 1e-9));
        if (record->repeats < 1) record->repeats = 1;
    }

    /* Passes over those that are right. */
    int64_t before[n_functions];
    for (int64_t f = 0; f < n_functions; f++) before[f] = records[f].n_samples;
    double begin = now(CLOCK_MONOTONIC);
    for (int64_t pass = 0; pass < config->max_passes; pass++) {
        int64_t n_wanting = 0;
        int8_t wants[n_functions];
        for (int64_t f = 0; f < n_functions; f++) {
            Record *record = records + f;
            const double *own = samples + SAMPLE * (f * config->capacity + before[f]);
            int64_t n_quiet;
            double noise =
                half_split(&runner, record, own, record->n_samples - before[f], &n_quiet);
            wants[f] = record->status == OK &&
                       (pass < config->min_passes || n_quiet < config->min_passes ||
                        noise > config->wanted_noise);
            n_wanting += wants[f];
        }
        if (!n_wanting || (pass > 0 && now(CLOCK_MONOTONIC) - begin > config->budget_s)) break;
        int64_t spacing = (n_functions - 1 + BASELINE_SLOTS - 1) / BASELINE_SLOTS;
        for (int64_t slot = 0; slot < BASELINE_SLOTS * (spacing + 1); slot++) {
            /* Slots 0, spacing + 1, ... are the baseline's; the others rotate from pass to pass. */
            int64_t group = slot / (spacing + 1), place = slot % (spacing + 1);
            int64_t f = 0;
            if (place) {
                int64_t turn = group * spacing + place - 1;
                if (turn >= n_functions - 1) continue;
                f = 1 + (turn + pass) % (n_functions - 1);
            }
            Record *record = records + f;
            if ((f > 0 && !wants[f]) || record->n_samples >= config->capacity) continue;
            for (int a = 0; a < n_arrays; a++)
                if (first[a]) memcpy(at[a], first[a], bytes_of(arrays + a));
            double before_s = wait_until_quiet(&runner, &wait_s);
            timed(&runner, f, 1, &cpu, &wall);
            timed(&runner, f, record->repeats, &cpu, &wall);
            double *sample = samples + SAMPLE * (f * config->capacity + record->n_samples);
            sample[0] = cpu, sample[1] = wall, sample[2] = fmax(before_s, pace(state));
            record->n_samples++;
        }
    }
    return 0;
}
