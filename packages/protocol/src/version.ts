/** How the two sides name this protocol to each other. No zod here, so that a client pays for nothing else. */

export const protocolVersion = 1;

/**
 * The schemas of the wire as one hash: wire.test.ts fails when they no longer have it. What old clients and gateways
 * still read keeps the version, what they do not takes a new one; either way this is changed on purpose.
 */
export const wireFingerprint = "d1ba33ce48b3921afeaacecf59534a8a";

export const subprotocol = "throughline.v1";
/** A browser cannot set headers: it offers its token as a second subprotocol with this prefix. */
export const bearerSubprotocolPrefix = "throughline.bearer.";
