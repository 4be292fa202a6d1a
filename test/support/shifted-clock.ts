/**
 * Preloaded into a process (`shiftedClock`), it sets its wall clock ahead or behind. Timers and `performance.now` stay, as
 * they do where a clock is set wrong.
 */
const shift = Number(process.env.CLOCK_SHIFT_MS ?? 0);
const RealDate = Date;

class ShiftedDate extends RealDate {
  // biome-ignore lint/suspicious/noExplicitAny: what Date takes
  constructor(...args: any[]) {
    if (args.length === 0) super(ShiftedDate.now());
    else super(...(args as [number]));
  }

  static override now(): number {
    return RealDate.now() + shift;
  }
}

globalThis.Date = ShiftedDate as DateConstructor;
