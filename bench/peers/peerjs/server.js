// An unchanged PeerServer that accepts more than 5,000 connections. It has no rooms: a signal goes
// from one id to another.
import { PeerServer } from "peer";

PeerServer({ host: "127.0.0.1", port: 0, path: "/", concurrent_limit: 20_000 }, (server) => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
