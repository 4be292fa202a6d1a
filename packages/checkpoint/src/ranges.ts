/** Numbers of a list's elements as ranges, each with its first and last: in the list's order, which may be any. */

export type Range = readonly [first: number, last: number];

/** Of `<first>-<last>,…`. */
export function rangesIn(text: string): Range[] {
  if (text === "") return [];
  return text.split(",").map((range) => {
    const [first, last] = range.split("-").map(Number);
    return [first!, last!];
  });
}

export function sizeOf(ranges: readonly Range[]): number {
  return ranges.reduce((sum, [first, last]) => sum + last - first + 1, 0);
}

/** The numbers that are not among the others, in their order. */
export function minus(ranges: readonly Range[], others: readonly Range[]): Range[] {
  const sorted = [...others].sort(([a], [b]) => a - b);
  return ranges.flatMap(([first, last]) => {
    const left: Range[] = [];
    let from = first;
    for (const other of sorted) {
      if (other[1] < from) continue;
      if (other[0] > last) break;
      if (other[0] > from) left.push([from, other[0] - 1]);
      from = other[1] + 1;
    }
    if (from <= last) left.push([from, last]);
    return left;
  });
}
