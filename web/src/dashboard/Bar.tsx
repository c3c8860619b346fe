// A bar of parts, from 0 to 1 together.

export interface BarPart {
  part: number;
  /** The CSS class of its colour. */
  kind: string;
}

/** Its text alternative stands beside it, so it is hidden from screen readers. */
export function Bar({ parts }: { parts: BarPart[] }) {
  let from = 0;
  return (
    <svg class="bar-parts" aria-hidden="true" focusable="false">
      <rect class="bar-ground" width="100%" height="100%" />
      {parts.map(({ part, kind }) => {
        const x = from;
        from = Math.min(1, from + part);
        return <rect key={kind} class={kind} x={`${100 * x}%`} width={`${100 * (from - x)}%`} height="100%" />;
      })}
    </svg>
  );
}
