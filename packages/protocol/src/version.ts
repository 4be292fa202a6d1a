/** How the two sides name this protocol to each other. No zod here, so that a client pays for nothing else. */

export const protocolVersion = 1;
export const subprotocol = "throughline.v1";
/** A browser cannot set headers: it offers its token as a second subprotocol with this prefix. */
export const bearerSubprotocolPrefix = "throughline.bearer.";
