/* The floor: the cost of the kernel and the network, with almost no program around them.
 *
 * It serves the same rooms as the other servers, in one loop, for well-behaved clients only.
 * It looks for the two or three fields that it needs, and checks nothing: no limits, no UTF-8,
 * no JSON, and no queue for a slow client beyond one partly sent message. It is not fit for
 * production.
 */
#define _GNU_SOURCE
#include "ws.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { BUFFER = 1 << 20, TABLE = 1 << 16, NAME = 64 };

struct peer {
    int fd, listed; /* its position in the room's list */
    bool open;
    char id[NAME], username[NAME];
    struct room *room;
    struct peer *same_hash; /* next in the table of ids */
    struct peer *next, *previous;
    unsigned char *in, *out;
    size_t in_size, out_size;
};

struct room {
    char name[NAME];
    struct peer **peers;
    int count, space;
    struct room *same_hash;
};

static struct peer *by_id[TABLE], all = {.next = &all, .previous = &all};
static struct room *rooms[TABLE];
static int epoll;

static unsigned hash(const char *text)
{
    unsigned value = 2166136261u;
    while (*text)
        value = (value ^ (unsigned char)*text++) * 16777619u;
    return value % TABLE;
}

/* Sending */

static void watch(struct peer *peer, uint32_t events, int how)
{
    struct epoll_event event = {.events = events, .data.ptr = peer};
    epoll_ctl(epoll, how, peer->fd, &event);
}

static void send_bytes(struct peer *peer, const unsigned char *data, size_t size)
{
    ssize_t sent = 0;
    if (peer->out_size == 0) {
        sent = send(peer->fd, data, size, MSG_NOSIGNAL);
        if (sent == (ssize_t)size)
            return;
        if (sent < 0 && errno != EAGAIN)
            return;
        if (sent < 0)
            sent = 0;
        watch(peer, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    }
    size_t left = size - (size_t)sent;
    peer->out = allocate(peer->out, peer->out_size + left);
    memcpy(peer->out + peer->out_size, data + sent, left);
    peer->out_size += left;
}

static void flush(struct peer *peer)
{
    ssize_t sent = send(peer->fd, peer->out, peer->out_size, MSG_NOSIGNAL);
    if (sent <= 0)
        return;
    peer->out_size -= (size_t)sent;
    memmove(peer->out, peer->out + sent, peer->out_size);
    if (peer->out_size == 0) {
        free(peer->out);
        peer->out = NULL;
        watch(peer, EPOLLIN, EPOLL_CTL_MOD);
    }
}

/* A text frame in a buffer that the next call overwrites. */
static size_t frame_text(unsigned char **frame, const char *text, size_t size)
{
    static unsigned char buffer[BUFFER];
    size_t head = frame_head(buffer, TEXT, size, 0);
    if (head + size > sizeof buffer)
        fail("text too long");
    memcpy(buffer + head, text, size);
    *frame = buffer;
    return head + size;
}

static void tell(struct peer *peer, const char *text, size_t size)
{
    unsigned char *frame;
    size_t length = frame_text(&frame, text, size);
    send_bytes(peer, frame, length);
}

static void tell_others(struct peer *peer, const char *text, size_t size)
{
    unsigned char *frame;
    size_t length = frame_text(&frame, text, size);
    for (int i = 0; i < peer->room->count; i++)
        if (peer->room->peers[i] != peer)
            send_bytes(peer->room->peers[i], frame, length);
}

/* Rooms */

static struct room *room_called(const char *name, size_t size)
{
    char wanted[NAME] = {0};
    memcpy(wanted, name, size < NAME - 1 ? size : NAME - 1);
    struct room **place = &rooms[hash(wanted)];
    for (struct room *room = *place; room; room = room->same_hash)
        if (!strcmp(room->name, wanted))
            return room;
    struct room *room = allocate(NULL, sizeof *room);
    *room = (struct room){.same_hash = *place};
    memcpy(room->name, wanted, NAME);
    return *place = room;
}

static void tell_move(struct peer *peer, const char *what)
{
    char text[512];
    int size = snprintf(text, sizeof text,
                        "{\"type\":\"%s\",\"room_id\":\"%s\",\"from\":\"%s\",\"client_id\":\"%s\","
                        "\"username\":\"%s\",\"connected_users\":%d}",
                        what, peer->room->name, peer->id, peer->id, peer->username,
                        peer->room->count);
    tell_others(peer, text, (size_t)size);
}

static void join(struct peer *peer)
{
    static char text[BUFFER];
    struct room *room = peer->room;
    int size = snprintf(text, sizeof text,
                        "{\"type\":\"auth_success\",\"username\":\"%s\",\"clientId\":\"%s\","
                        "\"room_id\":\"%s\"}",
                        peer->username, peer->id, room->name);
    tell(peer, text, (size_t)size);
    size = snprintf(text, sizeof text, "{\"type\":\"users_in_room\",\"users\":[");
    for (int i = 0; i < room->count; i++)
        size += snprintf(text + size, sizeof text - (size_t)size,
                         "%s{\"client_id\":\"%s\",\"username\":\"%s\"}", i ? "," : "",
                         room->peers[i]->id, room->peers[i]->username);
    size += snprintf(text + size, sizeof text - (size_t)size, "]}");
    tell(peer, text, (size_t)size);
    if (room->count == room->space) {
        room->space = room->space * 2 + 8;
        room->peers = allocate(room->peers, (size_t)room->space * sizeof *room->peers);
    }
    peer->listed = room->count;
    room->peers[room->count++] = peer;
    struct peer **place = &by_id[hash(peer->id)];
    peer->same_hash = *place;
    *place = peer;
    tell_move(peer, "user_joined");
}

static void depart(struct peer *peer)
{
    if (peer->id[0]) {
        struct room *room = peer->room;
        room->peers[peer->listed] = room->peers[--room->count];
        room->peers[peer->listed]->listed = peer->listed;
        struct peer **place = &by_id[hash(peer->id)];
        while (*place != peer)
            place = &(*place)->same_hash;
        *place = peer->same_hash;
        tell_move(peer, "user_left");
    }
    peer->next->previous = peer->previous;
    peer->previous->next = peer->next;
    close(peer->fd);
    free(peer->in);
    free(peer->out);
    free(peer);
}

/* Receiving */

/* The string after `"name":`; NULL if there is none. */
static const char *field(const char *text, size_t size, const char *name, size_t *length)
{
    char key[32];
    int key_size = snprintf(key, sizeof key, "\"%s\":\"", name);
    const char *found = memmem(text, size, key, (size_t)key_size);
    if (found == NULL)
        return NULL;
    found += key_size;
    const char *end = memchr(found, '"', (size_t)(text + size - found));
    *length = end ? (size_t)(end - found) : 0;
    return end ? found : NULL;
}

static void copy_field(char *out, const char *text, size_t size, const char *name)
{
    size_t length;
    const char *found = field(text, size, name, &length);
    if (found)
        memcpy(out, found, length < NAME - 1 ? length : NAME - 1);
}

static void on_text(struct peer *peer, const char *text, size_t size)
{
    if (!peer->id[0]) {
        copy_field(peer->id, text, size, "clientId");
        copy_field(peer->username, text, size, "username");
        join(peer);
        return;
    }
    /* The message with its sender added: {..., "from":"...","username":"..."} */
    static char told[BUFFER];
    memcpy(told, text, size - 1);
    int tail = snprintf(told + size - 1, sizeof told - size, ",\"from\":\"%s\",\"username\":\"%s\"}",
                        peer->id, peer->username);
    size_t all_of_it = size - 1 + (size_t)tail;
    size_t length;
    const char *to = field(text, size, "to", &length);
    if (to == NULL) {
        tell_others(peer, told, all_of_it);
        return;
    }
    char target[NAME] = {0};
    memcpy(target, to, length < NAME - 1 ? length : NAME - 1);
    for (struct peer *other = by_id[hash(target)]; other; other = other->same_hash)
        if (other->room == peer->room && !strcmp(other->id, target))
            tell(other, told, all_of_it);
}

/* The accept key, by SHA-1: RFC 6455 section 4.2.2, RFC 3174. */

static uint32_t rotate(uint32_t value, int bits) { return value << bits | value >> (32 - bits); }

static void sha1_block(uint32_t *state, const unsigned char *block)
{
    uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 80; i++) {
        if (i < 16)
            w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16
                   | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
        else
            w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t mixed = i < 20   ? ((b & c) | (~b & d)) + 0x5A827999
                         : i < 40 ? (b ^ c ^ d) + 0x6ED9EBA1
                         : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDC
                                  : (b ^ c ^ d) + 0xCA62C1D6;
        uint32_t new = rotate(a, 5) + mixed + e + w[i];
        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = new;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

static void accept_key(const unsigned char *key, size_t size, char *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t state[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    unsigned char data[128] = {0}, hashed[21] = {0};
    if (size > 40)
        size = 40;
    memcpy(data, key, size);
    memcpy(data + size, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    size += 36;
    data[size] = 0x80;
    data[126] = (unsigned char)(size * 8 >> 8);
    data[127] = (unsigned char)(size * 8);
    sha1_block(state, data);
    sha1_block(state, data + 64);
    for (int i = 0; i < 20; i++)
        hashed[i] = (unsigned char)(state[i / 4] >> (24 - 8 * (i % 4)));
    for (int i = 0; i < 7; i++) {
        uint32_t three = (uint32_t)hashed[3 * i] << 16 | (uint32_t)hashed[3 * i + 1] << 8
                         | (3 * i + 2 < 20 ? hashed[3 * i + 2] : 0);
        for (int j = 0; j < 4; j++)
            out[4 * i + j] = digits[three >> (18 - 6 * j) & 63];
    }
    out[27] = '=';
    out[28] = 0;
}

/* Answer the handshake; returns its length in bytes, 0 if it is incomplete. */
static size_t shake_hands(struct peer *peer, const unsigned char *data, size_t size)
{
    static const char asks[] = "{\"type\":\"auth_required\"}";
    const unsigned char *end = memmem(data, size, "\r\n\r\n", 4);
    if (end == NULL)
        return 0;
    const unsigned char *key = memmem(data, size, "Sec-WebSocket-Key: ", 19);
    const unsigned char *name = memmem(data, size, "/ws/", 4);
    if (key == NULL || name == NULL)
        fail("this is not a handshake from the load");
    key += 19;
    name += 4;
    const unsigned char *key_end = memchr(key, '\r', (size_t)(end + 1 - key));
    const unsigned char *name_end = memchr(name, ' ', (size_t)(end - name));
    char accept[32], answer[256];
    accept_key(key, (size_t)(key_end - key), accept);
    peer->room = room_called((const char *)name, (size_t)(name_end - name));
    int length = snprintf(answer, sizeof answer,
                          "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                          "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                          accept);
    send_bytes(peer, (unsigned char *)answer, (size_t)length);
    peer->open = true;
    tell(peer, asks, sizeof asks - 1);
    return (size_t)(end - data) + 4;
}

/* Returns false when the peer has left. */
static bool receive(struct peer *peer)
{
    static unsigned char buffer[BUFFER], text[BUFFER];
    size_t there = peer->in_size, at = 0;
    if (there)
        memcpy(buffer, peer->in, there);
    ssize_t got = recv(peer->fd, buffer + there, sizeof buffer - there, 0);
    if (got < 0 && errno == EAGAIN)
        return true;
    if (got <= 0)
        return false;
    there += (size_t)got;
    if (!peer->open)
        at = shake_hands(peer, buffer, there);
    while (peer->open) {
        uint64_t size;
        size_t head = read_head(buffer + at, there - at, &size);
        if (head == 0 || there - at - head < size)
            break;
        apply_mask(text, buffer + at + head, size, buffer + at + head - 4);
        int opcode = buffer[at];
        at += head + size;
        if (opcode == TEXT) {
            on_text(peer, (char *)text, size);
        } else if (opcode == CLOSE) {
            unsigned char frame[4] = {CLOSE, 2, 3, 232};
            send_bytes(peer, frame, 4);
            return false;
        }
    }
    peer->in_size = there - at;
    if (peer->in_size) {
        peer->in = allocate(peer->in, peer->in_size);
        memcpy(peer->in, buffer + at, peer->in_size);
    }
    return true;
}

static void take_new(int listener)
{
    int on = 1, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct peer *peer = allocate(NULL, sizeof *peer);
        *peer = (struct peer){.fd = fd, .next = all.next, .previous = &all};
        all.next->previous = peer;
        all.next = peer;
        watch(peer, EPOLLIN, EPOLL_CTL_ADD);
    }
}

static void ping_all(int timer)
{
    static const unsigned char ping[2] = {PING, 0};
    uint64_t times;
    if (read(timer, &times, sizeof times) != sizeof times)
        return;
    for (struct peer *peer = all.next; peer != &all; peer = peer->next)
        if (peer->open)
            send_bytes(peer, ping, 2);
}

int main(int count, char **arguments)
{
    int seconds = count > 1 ? atoi(arguments[1]) : 20;
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 65535) != 0)
        fail("listen: %s", strerror(errno));
    getsockname(listener, (struct sockaddr *)&address, &size);
    epoll = epoll_create1(0);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct itimerspec every = {{seconds, 0}, {seconds, 0}};
    timerfd_settime(timer, 0, &every, NULL);
    struct peer at_listener = {.fd = listener}, at_timer = {.fd = timer};
    watch(&at_listener, EPOLLIN, EPOLL_CTL_ADD);
    watch(&at_timer, EPOLLIN, EPOLL_CTL_ADD);
    printf("listening on http://127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event events[512];
        int ready = epoll_wait(epoll, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            struct peer *peer = events[i].data.ptr;
            if (peer == &at_listener)
                take_new(listener);
            else if (peer == &at_timer)
                ping_all(timer);
            else if (events[i].events & EPOLLOUT)
                flush(peer);
            else if (!receive(peer))
                depart(peer);
        }
    }
}
