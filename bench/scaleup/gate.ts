// A node's way to the control plane: connections are taken from the beginning and go nowhere until the node has booted, so that
// the node's daemons start with the node and join when it is there.
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

export type Gate = {
  port: number;
  /** The node has booted. */
  open(): void;
  close(): Promise<void>;
};

/** A gate before `port` of this machine. */
export async function startGate(port: number): Promise<Gate> {
  const opened = Promise.withResolvers<void>();
  const sockets = new Set<Socket>();
  const track = (socket: Socket) => {
    sockets.add(socket);
    socket.setNoDelay(true);
    // Either end may go at any time: then both do.
    socket.on("error", () => {});
    socket.once("close", () => sockets.delete(socket));
    return socket;
  };
  const server = createServer(async (client) => {
    track(client);
    await opened.promise;
    if (client.destroyed) return;
    const upstream = track(connect(port, "127.0.0.1"));
    client.pipe(upstream).pipe(client);
    client.once("close", () => upstream.destroy());
    upstream.once("close", () => client.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    open: () => opened.resolve(),
    async close() {
      opened.resolve();
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}
