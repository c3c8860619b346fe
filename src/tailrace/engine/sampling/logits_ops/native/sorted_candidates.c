/* Samplers over a list of candidates in falling order of their logits. The arithmetic is that of the NumPy
 * implementation, in double precision. A sampler moves the two ends of the list, so nothing is copied. */
#include <math.h>
#include <stdint.h>

#include "logits_row.h"

/* SamplerKind in sampler_steps.py. */
enum sampler_kind { TOP_K, TOP_P, MIN_P, TYPICAL, XTC, TEMPERATURE, TOP_N_SIGMA, MIROSTAT, MIROSTAT_V2 };

/* STEP in sampler_steps.py. */
struct step {
    int64_t kind, count;
    double a, b, c;
};

/* CandidateRange in structs.py. */
struct range {
    int64_t begin, end;
    int64_t n_candidates; /* with those of probability 0, which aren't in the list */
    double temperature;
};

#define MIN_DISTANCE    (-1e300)     /* of a logit: the lowest probability times it is 0 and not NaN */
#define MAX_TEMPERATURE 1e30         /* a negative exponent would make it infinite without entropy */
#define MIN_PROBABILITY 1e-45        /* lower ones are 0 in llama.cpp's single precision */
#define INT_LIMIT       2147483648.0 /* of llama.cpp's conversion to an int */
enum { MIROSTAT_SAMPLE = 100 };      /* candidates that estimate the distribution */

/* A logit's distance from the greatest one: 0 or less. */
INLINE double distance(const double *logits, const struct range *r, int64_t i) {
    const double d = (logits[i] - logits[r->begin]) / r->temperature;
    return d > MIN_DISTANCE ? d : MIN_DISTANCE;
}

/* Writes the relative probabilities and returns their sum. */
static double relative_probs(const double *logits, const struct range *r, double *probs) {
    double total = 0;
    for (int64_t i = r->begin; i < r->end; i++) total += probs[i] = exp(distance(logits, r, i));
    return total;
}

/* Keeps the `count` best candidates. */
static void keep_best(struct range *r, int64_t count) {
    if (r->n_candidates > count) r->n_candidates = count;
    if (r->end - r->begin > count) r->end = r->begin + count;
}

INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

/* How many candidates, from the best on, have a distance of at least `bound`. */
static int64_t count_within(const double *logits, const struct range *r, double bound) {
    int64_t i = r->begin;
    while (i < r->end && distance(logits, r, i) >= bound) i++;
    return i - r->begin;
}

static void top_p(const double *logits, struct range *r, const struct step *s, double *probs) {
    const double total = relative_probs(logits, r, probs);
    double mass = 0;
    for (int64_t i = r->begin; i < r->end; i++) {
        mass += probs[i];
        if (mass >= s->a * total) {
            keep_best(r, max_of(i + 1 - r->begin, s->count));
            return;
        }
    }
}

static void typical(const double *logits, struct range *r, const struct step *s, double *probs) {
    const double total = relative_probs(logits, r, probs);
    double mean_distance = 0, mass = 0;
    for (int64_t i = r->begin; i < r->end; i++) mean_distance += probs[i] * distance(logits, r, i);
    mean_distance /= total;
    int64_t below = r->begin;
    while (below < r->end && distance(logits, r, below) >= mean_distance) below++;
    /* The nearer candidate of the two sides is taken each time. */
    int64_t first = below, next = below;
    while (next - first < r->end - r->begin) {
        const int up = next == r->end || (first > r->begin && distance(logits, r, first - 1) - mean_distance <=
                                                                  mean_distance - distance(logits, r, next));
        mass += up ? probs[--first] : probs[next++];
        if (mass > s->a * total && next - first >= s->count) break;
    }
    if (!(mass > s->a * total)) return;
    const int64_t left = max_of(next - first, s->count);
    if (r->n_candidates > left) r->n_candidates = left;
    r->begin = first;
    r->end = next;
}

static void xtc(const double *logits, struct range *r, const struct step *s, double *probs) {
    if (s->c > s->a || r->n_candidates < 2) return;
    const double threshold = s->b * relative_probs(logits, r, probs);
    int64_t dropped = -1;
    for (int64_t i = r->begin; i < r->end && probs[i] >= threshold; i++) dropped++;
    if (dropped > 0 && r->n_candidates - dropped >= s->count) {
        r->begin += dropped;
        r->n_candidates -= dropped;
    }
}

static void temperature(const double *logits, struct range *r, const struct step *s, double *probs) {
    double now = s->a;
    if (s->b > 0) {
        if (r->n_candidates < 2) return;
        const double total = relative_probs(logits, r, probs);
        double sum = 0;
        for (int64_t i = r->begin; i < r->end; i++) sum += probs[i] * distance(logits, r, i);
        const double normalised_entropy = (log(total) - sum / total) / log((double)r->n_candidates),
                     min = s->a > s->b ? s->a - s->b : 0;
        now = min + (s->a + s->b - min) * pow(normalised_entropy > 0 ? normalised_entropy : 0, s->c);
        if (now > MAX_TEMPERATURE) now = MAX_TEMPERATURE;
    }
    if (now <= 0) r->end = r->begin + 1;
    else r->temperature *= now;
}

static void top_n_sigma(const double *logits, struct range *r, const struct step *s) {
    if (r->n_candidates < 2) return;
    const double count = r->end - r->begin;
    double mean = 0, squares = 0;
    for (int64_t i = r->begin; i < r->end; i++) mean += distance(logits, r, i);
    mean /= count;
    for (int64_t i = r->begin; i < r->end; i++)
        squares += (distance(logits, r, i) - mean) * (distance(logits, r, i) - mean);
    r->end = r->begin + max_of(1, count_within(logits, r, -s->a * sqrt(squares / count)));
}

static void mirostat(const double *logits, struct range *r, const struct step *s, double *probs) {
    const double total = relative_probs(logits, r, probs);
    const int64_t sample = r->n_candidates < MIROSTAT_SAMPLE ? r->n_candidates : MIROSTAT_SAMPLE,
                  listed = r->end - r->begin;
    double products = 0, squares = 0, last = 0;
    for (int64_t i = 0; i < sample; i++) {
        double p = i < listed ? probs[r->begin + i] / total : 0;
        if (p < MIN_PROBABILITY) p = 0;
        if (i) {
            const double step = log((double)(i + 1) / (double)i);
            products += step * log(last / p);
            squares += step * step;
        }
        last = p;
    }
    const double slope = products / squares, epsilon = slope - 1;
    const double count = pow(epsilon * pow(2, s->a) / (1 - pow((double)s->count, -epsilon)), 1 / slope);
    keep_best(r, fabs(count) < INT_LIMIT ? max_of(1, (int64_t)count) : 1);
}

/* Applies the steps to candidates with these logits: at least one, finite, in falling order. `range` starts as the whole
 * list. `probs` holds as many as `logits`; what is within `range` afterwards has its relative probability. 0, and
 * `range` is unchanged, for an unknown kind. */
EXPORT int tailrace_logits_run_samplers(const double *logits, const struct step *steps, int64_t n_steps,
                                        struct range *range, double *probs) {
    struct range r = *range;
    for (const struct step *s = steps; s < steps + n_steps; s++) switch (s->kind) {
            case TOP_K:
                if (s->count > 0) keep_best(&r, s->count);
                break;
            case TOP_P: top_p(logits, &r, s, probs); break;
            case MIN_P: keep_best(&r, max_of(1, max_of(s->count, count_within(logits, &r, s->a)))); break;
            case TYPICAL: typical(logits, &r, s, probs); break;
            case XTC: xtc(logits, &r, s, probs); break;
            case TEMPERATURE: temperature(logits, &r, s, probs); break;
            case TOP_N_SIGMA: top_n_sigma(logits, &r, s); break;
            case MIROSTAT: mirostat(logits, &r, s, probs); break;
            case MIROSTAT_V2:
                keep_best(&r,
                          max_of(1, count_within(logits, &r, log(relative_probs(logits, &r, probs)) - s->a * M_LN2)));
                break;
            default: return 0;
        }
    relative_probs(logits, &r, probs);
    *range = r;
    return 1;
}
