// Calls a function at animation frames, and leaves the browser time for the rest: after work that took long it waits
// longer. So a long reply grows in larger steps, and the page still answers.

/** Part of the time that the work may take. */
const SHARE = 0.25;

export class FrameTimer {
  private frame = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private notBefore = 0;

  constructor(private readonly work: () => void) {}

  /** Has the work done soon, once for all requests until then. */
  request(): void {
    if (this.frame !== 0 || this.timer !== undefined) return;
    const wait = this.notBefore - performance.now();
    if (wait > 0) this.timer = setTimeout(() => this.next(), wait);
    else this.next();
  }

  /** Has no more work done. */
  cancel(): void {
    cancelAnimationFrame(this.frame);
    clearTimeout(this.timer);
    this.frame = 0;
    this.timer = undefined;
  }

  private next(): void {
    this.timer = undefined;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      const begun = performance.now();
      this.work();
      // Components render behind this callback, and the browser lays out behind them.
      setTimeout(() => {
        const now = performance.now();
        this.notBefore = now + (now - begun) * (1 / SHARE - 1);
      });
    });
  }
}
