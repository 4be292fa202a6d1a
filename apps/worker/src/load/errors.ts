import { ConfigError } from "@throughline/kit";

/**
 * What `--agents` names cannot be served. One line for each thing that is wrong: `file:line: what, and what would be
 * right`. Starting again does not help, as with any setting.
 */
export class AgentsError extends ConfigError {
  override readonly name = "AgentsError";
}
