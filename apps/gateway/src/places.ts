/** How subscriptions of a socket, to runs and to threads, take their place and begin. */
import { ProtocolError } from "@throughline/protocol";
import type { ClientSocket } from "./client-socket.ts";
import type { Subscription } from "./subscription.ts";

/** Throws too_many_subscriptions where the socket has no room for this one. `id`: the log's; "" is none that it has. */
export function checkSubscriptions(connection: ClientSocket, id: string, max: number): void {
  if (connection.subscription(id) !== undefined || connection.subscriptions < max) return;
  const message = `this socket has ${max} subscriptions, which is the limit`;
  throw new ProtocolError("too_many_subscriptions", message);
}

/**
 * Takes the log's place among the socket's subscriptions. Checked and taken in one go: commands that come together cannot
 * all find the same place free. Where there is none the subscription is closed, and too_many_subscriptions is thrown.
 *
 * @returns what begins it, where it still has its place then
 */
export function takePlace(connection: ClientSocket, subscription: Subscription, max: number): () => void {
  const { id } = subscription.feed.log;
  try {
    checkSubscriptions(connection, id, max);
  } catch (error) {
    subscription.close();
    throw error;
  }
  connection.addSubscription(subscription);
  return () => {
    if (connection.closed) return subscription.close();
    // Another command has taken its place since.
    if (connection.subscription(id) !== subscription) return;
    subscription.start();
  };
}

/** Ends the socket's subscription to a log, if it has one. */
export function leavePlace(connection: ClientSocket, id: string): void {
  const subscription = connection.subscription(id);
  if (subscription === undefined) return;
  subscription.close();
  connection.removeSubscription(subscription);
}
