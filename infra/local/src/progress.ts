const firstMs = 3_000;
const everyMs = 5_000;

/** Says every few seconds what is still going on, until the answer is called. Nothing where it does not take long. */
export function sayWhileWaiting(say: (text: string) => void, what: () => string): () => void {
  const startedAt = Date.now();
  const tell = () => {
    say(`${what()} … (${Math.round((Date.now() - startedAt) / 1000)} s)`);
    timer = setTimeout(tell, everyMs);
  };
  let timer = setTimeout(tell, firstMs);
  return () => clearTimeout(timer);
}
