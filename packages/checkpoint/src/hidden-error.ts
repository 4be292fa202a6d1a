/** What readers are told of an error that was not written for them. */
export type HiddenError = {
  name: string;
  /** Always the same sentence. */
  message: string;
  code?: string;
};

const message = "the agent failed; its worker's log says why";
/** Names and codes are identifiers. Anything else may hold what the message holds. */
const identifier = /^[\w.$-]{1,100}$/;

/**
 * An error without its message, which may quote what is nobody's business: a connection string, a query, a stranger's
 * text. Of name and code only identifiers are told.
 */
export function hideError(error: unknown): HiddenError {
  const { name, code } = fields(error);
  return {
    name: isIdentifier(name) ? name : "Error",
    message,
    ...(isIdentifier(code) ? { code } : {}),
  };
}

function fields(error: unknown): { name?: unknown; code?: unknown } {
  if (typeof error !== "object" || error === null) return {};
  try {
    const { name, code } = error as { name?: unknown; code?: unknown };
    return { name, code };
  } catch {
    return {};
  }
}

function isIdentifier(value: unknown): value is string {
  return typeof value === "string" && identifier.test(value);
}
