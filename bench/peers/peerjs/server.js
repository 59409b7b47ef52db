// PeerServer as it is. It has no rooms: a signal goes from one id to another.
import { PeerServer } from "peer";

PeerServer({ host: "127.0.0.1", port: 0, path: "/" }, (server) => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
