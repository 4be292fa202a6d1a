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
  /** Keeps back what the server says to those connections, until the function that it answers is called. */
  hold(connectionName: string): () => void;
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
  held?: Buffer[];
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
      server.write(data);
    });
    server.on("data", (data) => {
      if (link.held !== undefined) link.held.push(data);
      else if (!link.muted) client.write(data);
    });
    const end = () => {
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
    for (const { client } of links) client.destroy();
  };
  return {
    url: url.href,
    cut,
    mute(connectionName) {
      const found = named(connectionName);
      for (const link of found) link.muted = true;
      return found.length;
    },
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
    close() {
      listener.close();
      cut();
    },
  };
}
