/**
 * A TCP proxy in front of Redis, or of a gateway. It can go deaf: connections stay open, and what the server says is
 * swallowed. And it can cut them.
 */
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

export interface Proxy {
  /** As the server's, but for host and port. */
  readonly url: string;
  /** Swallows what the server says from now on to connections whose client named itself so. Answers how many. */
  mute(connectionName: string): number;
  /** How many of the connections are muted whose client named itself so. */
  muted(connectionName: string): number;
  /** Keeps back what the server says to those connections, until the function that it answers is called. */
  hold(connectionName: string): () => void;
  /** Loses published messages on those connections, each that `loses` says yes to, until the function that it answers is called. */
  lose(connectionName: string, loses: () => boolean): () => void;
  /**
   * The network is gone for the connections that there are: nothing passes any more, either way, not even their ends. New
   * ones are taken. Answers how many there were.
   */
  strand(): number;
  /** Breaks all connections off; new ones are taken. */
  cut(): void;
  close(): void;
}

interface Link {
  client: Socket;
  server: Socket;
  /** The first of what the client said. */
  said: string;
  muted: boolean;
  stranded?: boolean;
  held?: Buffer[];
  loses?: () => boolean;
}

export async function startProxy(serverUrl: string): Promise<Proxy> {
  const target = new URL(serverUrl);
  const links = new Set<Link>();
  const named = (name: string) => [...links].filter(({ said }) => said.includes(name));
  const listener = createServer((client) => {
    const server = connect(Number(target.port), target.hostname);
    const link: Link = { client, server, said: "", muted: false };
    links.add(link);
    client.on("data", (data) => {
      // A name comes with the first commands.
      if (link.said.length < 4_096) link.said += data.toString("latin1");
      if (link.stranded !== true) server.write(data);
    });
    server.on("data", (data) => {
      if (link.stranded === true) return;
      if (link.held !== undefined) link.held.push(data);
      else if (!link.muted) client.write(link.loses === undefined ? data : without(data, link.loses));
    });
    const end = () => {
      if (link.stranded === true) return;
      links.delete(link);
      client.destroy();
      server.destroy();
    };
    for (const socket of [client, server]) socket.on("close", end).on("error", end);
  });
  await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve));
  const url = new URL(serverUrl);
  url.host = `127.0.0.1:${(listener.address() as AddressInfo).port}`;
  const cut = () => {
    for (const { client, server } of links) {
      client.destroy();
      server.destroy();
    }
  };
  return {
    url: url.href,
    cut,
    strand() {
      const found = [...links].filter(({ stranded }) => stranded !== true);
      for (const link of found) link.stranded = true;
      return found.length;
    },
    mute(connectionName) {
      const found = named(connectionName);
      for (const link of found) link.muted = true;
      return found.length;
    },
    muted: (connectionName) => named(connectionName).filter(({ muted }) => muted).length,
    hold(connectionName) {
      const found = named(connectionName);
      for (const link of found) link.held = [];
      return () => {
        for (const link of found) {
          for (const data of link.held ?? []) link.client.write(data);
          delete link.held;
        }
      };
    },
    lose(connectionName, loses) {
      const found = named(connectionName);
      for (const link of found) link.loses = loses;
      return () => {
        for (const link of found) delete link.loses;
      };
    },
    close() {
      listener.close();
      cut();
    },
  };
}

/** How a published message begins on the wire. Our messages are JSON, so that no other bytes of the stream look like it. */
const message = /^[*>]3\r\n\$[78]\r\ns?message\r\n\$(\d+)\r\n([^\r]*)\r\n\$(\d+)\r\n/;

/** What is left of this piece of the stream when those published messages that lie wholly in it may be lost. */
function without(data: Buffer, loses: () => boolean): Buffer {
  const kept: Buffer[] = [];
  let from = 0;
  for (let at = 0; at < data.length; ) {
    const head = message.exec(data.toString("latin1", at, at + 512));
    if (head === null) break;
    const end = at + head[0].length + Number(head[3]) + 2;
    if (end > data.length) break;
    // What a gateway says to itself to prove the connection comes through.
    if (!head[2]!.endsWith(":probe") && loses()) {
      kept.push(data.subarray(from, at));
      from = end;
    }
    at = end;
  }
  kept.push(data.subarray(from));
  return Buffer.concat(kept);
}
