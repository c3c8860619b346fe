/* Copies of a state's bytes within a device's memory. */
#pragma once
#include "loading/copies.h"

struct snapshot;

/* Copy what the fleeting ones of `copies` read within its device, and have them read it there. Copies for which that
 * fails stay fleeting. Returns what `release_snapshots` takes. */
struct snapshot *take_snapshots(struct copy *copies, int64_t count);

/* Nothing reads them any more. */
void release_snapshots(struct snapshot *snapshots);
