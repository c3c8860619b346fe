/* What samplers leave of a list of candidates in falling order: narrowing.py's arithmetic, in double precision. A list is
 * narrowed by moving its two ends. */
#include <math.h>
#include <stdint.h>

#include "rows.h"

enum { TOP_K, TOP_P, MIN_P, TYPICAL, XTC, TEMPERATURE, TOP_N_SIGMA, MIROSTAT, MIROSTAT_V2 };

struct step {
    int64_t kind, count;
    double a, b, c;
};

struct range {
    int64_t begin, end;
    int64_t size; /* candidates, with those of probability 0 that aren't in the list */
    double temperature;
};

#define FARTHEST (-1e300)    /* distance: the least probability times it is 0 and not NaN */
#define HOTTEST 1e30         /* temperature at most */
#define LEAST 1e-45          /* probability that isn't 0 in llama.cpp's single precision */
#define INT_LIMIT 2147483648.0
enum { MIROSTAT_SAMPLE = 100 }; /* candidates that the distribution is estimated by */

INLINE double distance(const double *logits, const struct range *r, int64_t i) {
    const double d = (logits[i] - logits[r->begin]) / r->temperature;
    return d > FARTHEST ? d : FARTHEST;
}

/* Probabilities over the best one's, and their sum. */
static double weigh(const double *logits, const struct range *r, double *weights) {
    double total = 0;
    for (int64_t i = r->begin; i < r->end; i++) total += weights[i] = exp(distance(logits, r, i));
    return total;
}

static void keep(struct range *r, int64_t count) {
    if (r->size > count) r->size = count;
    if (r->end - r->begin > count) r->end = r->begin + count;
}

INLINE int64_t greater_of(int64_t a, int64_t b) { return a > b ? a : b; }

/* How many are at most so far from the best: a beginning. */
static int64_t within(const double *logits, const struct range *r, double bound) {
    int64_t i = r->begin;
    while (i < r->end && distance(logits, r, i) >= bound) i++;
    return i - r->begin;
}

static void top_p(const double *logits, struct range *r, const struct step *s, double *weights) {
    const double total = weigh(logits, r, weights);
    double mass = 0;
    for (int64_t i = r->begin; i < r->end; i++) {
        mass += weights[i];
        if (mass >= s->a * total) {
            keep(r, greater_of(i + 1 - r->begin, s->count));
            return;
        }
    }
}

static void typical(const double *logits, struct range *r, const struct step *s, double *weights) {
    const double total = weigh(logits, r, weights);
    double centre = 0, mass = 0;
    for (int64_t i = r->begin; i < r->end; i++) centre += weights[i] * distance(logits, r, i);
    centre /= total;
    int64_t below = r->begin;
    while (below < r->end && distance(logits, r, below) >= centre) below++;
    /* The nearest of both sides is taken each time. */
    int64_t first = below, next = below;
    while (next - first < r->end - r->begin) {
        const int up = next == r->end ||
            (first > r->begin && distance(logits, r, first - 1) - centre <= centre - distance(logits, r, next));
        mass += up ? weights[--first] : weights[next++];
        if (mass > s->a * total && next - first >= s->count) break;
    }
    if (!(mass > s->a * total)) return;
    const int64_t kept = greater_of(next - first, s->count);
    if (r->size > kept) r->size = kept;
    r->begin = first;
    r->end = next;
}

static void xtc(const double *logits, struct range *r, const struct step *s, double *weights) {
    if (s->c > s->a || r->size < 2) return;
    const double least = s->b * weigh(logits, r, weights);
    int64_t dropped = -1;
    for (int64_t i = r->begin; i < r->end && weights[i] >= least; i++) dropped++;
    if (dropped > 0 && r->size - dropped >= s->count) {
        r->begin += dropped;
        r->size -= dropped;
    }
}

static void temperature(const double *logits, struct range *r, const struct step *s, double *weights) {
    double now = s->a;
    if (s->b > 0) {
        if (r->size < 2) return;
        const double total = weigh(logits, r, weights);
        double sum = 0;
        for (int64_t i = r->begin; i < r->end; i++) sum += weights[i] * distance(logits, r, i);
        const double part = (log(total) - sum / total) / log((double)r->size), least = s->a > s->b ? s->a - s->b : 0;
        now = least + (s->a + s->b - least) * pow(part > 0 ? part : 0, s->c);
        if (now > HOTTEST) now = HOTTEST;
    }
    if (now <= 0) r->end = r->begin + 1;
    else r->temperature *= now;
}

static void top_n_sigma(const double *logits, struct range *r, const struct step *s) {
    if (r->size < 2) return;
    const double many = r->end - r->begin;
    double mean = 0, squares = 0;
    for (int64_t i = r->begin; i < r->end; i++) mean += distance(logits, r, i);
    mean /= many;
    for (int64_t i = r->begin; i < r->end; i++) squares += (distance(logits, r, i) - mean) * (distance(logits, r, i) - mean);
    r->end = r->begin + greater_of(1, within(logits, r, -s->a * sqrt(squares / many)));
}

static void mirostat(const double *logits, struct range *r, const struct step *s, double *weights) {
    const double total = weigh(logits, r, weights);
    const int64_t sample = r->size < MIROSTAT_SAMPLE ? r->size : MIROSTAT_SAMPLE, seen = r->end - r->begin;
    double products = 0, squares = 0, last = 0;
    for (int64_t i = 0; i < sample; i++) {
        double part = i < seen ? weights[r->begin + i] / total : 0;
        if (part < LEAST) part = 0;
        if (i) {
            const double step = log((double)(i + 1) / (double)i);
            products += step * log(last / part);
            squares += step * step;
        }
        last = part;
    }
    const double slope = products / squares, epsilon = slope - 1;
    const double many = pow(epsilon * pow(2, s->a) / (1 - pow((double)s->count, -epsilon)), 1 / slope);
    keep(r, fabs(many) < INT_LIMIT ? greater_of(1, (int64_t)many) : 1);
}

/* Applies the steps to candidates with these logits, at least one, finite and in falling order. `range` comes as all of
 * them; `weights`, with as much room, has the probabilities over the best one's of those that it goes with. */
EXPORT void tailrace_rows_narrow(
    const double *logits, const struct step *steps, int64_t many, struct range *range, double *weights) {
    struct range r = *range;
    for (const struct step *s = steps; s < steps + many; s++) switch (s->kind) {
        case TOP_K: if (s->count > 0) keep(&r, s->count); break;
        case TOP_P: top_p(logits, &r, s, weights); break;
        case MIN_P: keep(&r, greater_of(1, greater_of(s->count, within(logits, &r, s->a)))); break;
        case TYPICAL: typical(logits, &r, s, weights); break;
        case XTC: xtc(logits, &r, s, weights); break;
        case TEMPERATURE: temperature(logits, &r, s, weights); break;
        case TOP_N_SIGMA: top_n_sigma(logits, &r, s); break;
        case MIROSTAT: mirostat(logits, &r, s, weights); break;
        case MIROSTAT_V2:
            keep(&r, greater_of(1, within(logits, &r, log(weigh(logits, &r, weights)) - s->a * M_LN2)));
            break;
    }
    weigh(logits, &r, weights);
    *range = r;
}
