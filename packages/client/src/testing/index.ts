/** For tests of the client and of what is built on it; resolved from source only, and no part of the build. */
export { ManualClock } from "./clock.ts";
export { type Command, Peer, parts, ScriptedGateway } from "./gateway.ts";
export { ScriptedThread } from "./thread.ts";
