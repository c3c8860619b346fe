// Numbers with their units, in the page's language.

import { language } from "../language/language";

function locale(): string {
  return language.value === "zh" ? "zh-CN" : "en";
}

/** `count` without a unit: `12,345`, or `8.4` with one `digits`. */
export function number(count: number, digits = 0): string {
  return count.toLocaleString(locale(), { maximumFractionDigits: digits, minimumFractionDigits: digits });
}

/** A rate per second: `8.4` below ten, `127` above. */
export function rate(perSecond: number): string {
  return number(perSecond, perSecond > 0 && perSecond < 9.95 ? 1 : 0);
}

/** A duration in seconds: `12 ms`, `4.2 s`, `3 min`, `2 h`; a dash where there is none. */
export function seconds(amount: number | null): string {
  if (amount === null) return "–";
  if (amount < 0.00995) return `${number(amount * 1000, 1)} ms`;
  if (amount < 0.995) return `${number(amount * 1000)} ms`;
  if (amount < 9.95) return `${number(amount, 1)} s`;
  if (amount < 120) return `${number(amount)} s`;
  if (amount < 7200) return `${number(amount / 60)} min`;
  if (amount < 172_800) return `${number(amount / 3600)} h`;
  return `${number(amount / 86_400)} d`;
}

/** Bytes: `640 kB`, `97 MB`, `2.7 GB`. */
export function size(bytes: number): string {
  const units: [number, string][] = [
    [1e12, "TB"],
    [1e9, "GB"],
    [1e6, "MB"],
  ];
  const [factor, unit] = units.find(([least]) => bytes >= least) ?? [1e3, "kB"];
  const value = bytes / factor;
  return `${number(value, value < 9.95 && unit !== "kB" ? 1 : 0)} ${unit}`;
}

/** A part from 0 to 1: `42 %`. */
export function percent(part: number): string {
  return `${number(100 * part)} %`;
}

/** The time of day of a Unix time in seconds. */
export function clock(time: number): string {
  return new Date(time * 1000).toLocaleTimeString(locale(), { hour12: false });
}

/** The least "round" number that isn't below `value`: 1, 2 or 5 and zeros. */
export function roundUp(value: number): number {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const factor = [1, 2, 5, 10].find((each) => each * power >= value * 0.9999) ?? 10;
  return factor * power;
}
