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
  /** Breaks all connections off; new ones are taken. */
  cut(): void;
  close(): void;
}

export async function startProxy(serverUrl: string): Promise<Proxy> {
  const target = new URL(serverUrl);
  const links = new Set<{ client: Socket; server: Socket; said: string; muted: boolean }>();
  const listener = createServer((client) => {
    const server = connect(Number(target.port), target.hostname);
    const link = { client, server, said: "", muted: false };
    links.add(link);
    client.on("data", (data) => {
      // A name comes with the first commands.
      if (link.said.length < 4_096) link.said += data.toString("latin1");
      server.write(data);
    });
    server.on("data", (data) => {
      if (!link.muted) client.write(data);
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
      const found = [...links].filter(({ said }) => said.includes(connectionName));
      for (const link of found) link.muted = true;
      return found.length;
    },
    close() {
      listener.close();
      cut();
    },
  };
}
