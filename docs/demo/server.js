// A server in this page: what trio-signal does for clients of the dialect `mesh`, in seventy lines.
// It promises less: one room, no tokens, no resuming. See docs/protocols/mesh.md for the messages.

/** The members of one room, each with its socket. `watch` is told about each message. */
class DemoServer {
  #members = new Map(); // by client id: { name, socket, since }

  constructor(watch) {
    this.watch = watch;
  }

  opened(socket) {
    this.#tell(socket, { type: 'auth_required', message: 'Send auth_token to join' });
  }

  received(socket, message) {
    this.watch(socket.name ?? message.username, 'server', message);
    if (message.type === 'auth_token') this.#join(socket, message);
    else if (message.type === 'ping') this.#tell(socket, { type: 'pong', id: message.id });
    else if (message.type === 'broadcast_start') this.#live(socket, new Date().toISOString());
    else if (message.type === 'broadcast_stop') this.#live(socket, null);
    else this.#relay(socket, message);
  }

  closed(socket) {
    const member = this.#members.get(socket.id);
    if (member?.socket !== socket) return; // a newer socket has taken its place
    if (member.since) this.#live(socket, null);
    this.#members.delete(socket.id);
    this.#others(socket, { type: 'user_left', ...this.#who(socket), cause: 'closed' });
  }

  #join(socket, { clientId, username }) {
    socket.id = clientId || crypto.randomUUID();
    socket.name = username;
    const others = [...this.#members].filter(([id]) => id !== socket.id);
    this.#members.set(socket.id, { name: username, socket, since: null });
    this.#tell(socket, {
      type: 'auth_success', user: username, client_id: socket.id, user_id: socket.id, room_id: 'demo',
      message: 'Joined', ice_servers: [], heartbeat: 20, protocol: 1,
    });
    const users = others.map(([id, { name }]) => ({ client_id: id, username: name }));
    this.#tell(socket, { type: 'users_in_room', users });
    const broadcasters = others.filter(([, { since }]) => since).map(([id, { name, since }]) => (
      { client_id: id, username: name, media_type: 'video', started_at: since }
    ));
    if (broadcasters.length) this.#tell(socket, { type: 'active_broadcasts', broadcasters });
    this.#others(socket, { type: 'user_joined', ...this.#who(socket) });
  }

  #live(socket, since) {
    this.#members.get(socket.id).since = since;
    const type = since ? 'broadcast_started' : 'broadcast_stopped';
    this.#others(socket, { type, ...this.#who(socket), media_type: 'video', started_at: since });
  }

  /** Passes a signal on, to one or to all others, and says who sent it. */
  #relay(socket, { to, ...message }) {
    const signal = { ...message, from: socket.id, username: socket.name };
    if (!to) this.#others(socket, signal);
    else if (this.#members.has(to)) this.#tell(this.#members.get(to).socket, signal);
    else this.#tell(socket, { type: 'error', code: 'target_not_found', message: 'Target not found', to });
  }

  #who({ id, name }) {
    return { room_id: 'demo', from: id, client_id: id, username: name, connected_users: this.#members.size };
  }

  #others(socket, message) {
    for (const [id, member] of this.#members) if (id !== socket.id) this.#tell(member.socket, message);
  }

  #tell(socket, message) {
    this.watch('server', socket.name ?? 'a new client', message);
    socket.deliver(JSON.stringify(message));
  }
}

/** Stands in for the browser's WebSocket: its other end is a `DemoServer`. */
function socketsOf(server) {
  return class PageSocket {
    static OPEN = 1;
    static all = new Set();
    readyState = 0;
    onmessage = null;
    onclose = null;

    constructor() {
      PageSocket.all.add(this);
      setTimeout(() => {
        if (this.readyState !== 0) return;
        this.readyState = 1;
        server.opened(this);
      });
    }

    send(text) {
      setTimeout(() => this.readyState === 1 && server.received(this, JSON.parse(text)));
    }

    deliver(data) {
      setTimeout(() => this.readyState === 1 && this.onmessage?.({ data }));
    }

    close() {
      this.#end();
    }

    /** As if the network had failed: neither side says goodbye. */
    break() {
      if (this.#end()) this.onclose?.({ code: 1006, reason: '' });
    }

    #end() {
      if (this.readyState === 3) return false;
      this.readyState = 3;
      PageSocket.all.delete(this);
      setTimeout(() => server.closed(this));
      return true;
    }
  };
}
