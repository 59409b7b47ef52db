/* The load: many WebSocket clients in one loop, much cheaper than any server.
 *
 * It reads its settings from standard input, one a line; lines with `#` are comments:
 *
 *     port 8000                  the server's port; clients are spread over several
 *     pid 4711                   a process of the server, whose CPU and memory are measured
 *     connections 100
 *     room_size 2                client i is in room i / room_size; 1 for no rooms
 *     pace 2000                  new connections a second; 0: as fast as they are accepted
 *     path /ws/{room}
 *     expect "auth_required"     wait for a text that contains this...
 *     say {"type":"auth_token","clientId":"{me}"}     ...and answer; after the last `expect`,
 *                                which has no `say`, the client has joined
 *     signal {"to":"{to}","sdp":"{mark}{filler}"}     a signal, of `size` bytes in all
 *     speech {"data":"{mark}{filler}"}                the same, to the room
 *     post POST /announce ...    an HTTP request that makes the server send something to all
 *     token ...                  a client's `{token}`; several are spread over the clients
 *     filler ...                 the text that `{filler}` repeats
 *     text_ping 2                a text that the client answers...
 *     text_pong 3                ...with this one
 *     joins "user_joined"        part of the texts that report that a client joined...
 *     leaves "user_left"         ...or left
 *     session "session":{"id":"  the text before a session's id, which ends at a quote
 *     come_back {"session":"{session}","received":{seen}}     replaces the first `say` of a
 *                                client that reconnects
 *     resumed "resumed"          part of the text that reports that a session was resumed
 *     uncounted {"type":"pong"   `{seen}` counts the texts of a session, except those that
 *                                begin with this; several
 *     offsets 42[                `{seen}` is instead the last string of texts that begin with this
 *     confirm {"type":"ping","received":{seen}}     sent after every 64 counted texts
 *     next_port 8001             the port to which all reconnect after a deploy
 *     phase relay pairs=50 window=4 size=2048 warmup=1 seconds=3
 *     phase relay pairs=50 rate=1000 size=2048 seconds=3
 *     phase fanout window=2 size=200 warmup=1 seconds=3
 *     phase churn seconds=3
 *     phase idle seconds=10
 *     phase drops rate=20 size=200 lost=50 away=2 seconds=10
 *     phase deploy signal=9
 *
 * First all clients join, and wait until each knows all others in its room. Then the phases
 * run in order. Each message carries a mark: its sender, target, number and time. If a message
 * is lost, duplicated, reordered or misrouted, the program exits with 1. Only the phase `drops`
 * counts such messages instead. At the end of each phase, its measurements are printed as a
 * line of JSON.
 */
#define _GNU_SOURCE
#include "ws.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
    MAX_STEPS = 8,
    MAX_PORTS = 16,
    MAX_PHASES = 8,
    MAX_TOKENS = 1000,
    BUFFER = 1 << 20,
    /* How many clients may be joining at the same time if there is no `pace`. */
    AT_A_TIME = 64,
    /* The same for clients that reconnect. */
    BACK_AT_A_TIME = 250,
    CONFIRM_AFTER = 64,
    MAX_UNCOUNTED = 8,
    /* "@@", sender, target, number, time */
    MARK = 2 + 6 + 6 + 8 + 16,
};

static const char ID[] = "peer";
enum { ID_DIGITS = 6, IDS = 1000000 };

/* Settings */

static int ports[MAX_PORTS], port_count;
static pid_t pids[MAX_PORTS];
static int pid_count;
static int connections = 100, room_size = 2, pace;
static double give_up = 60;
static char *path = "/", *signal_text, *speech_text, *post_text, *filler = "x";
static char *text_ping, *text_pong, *joins, *leaves;
static char *session_key, *come_back_text, *resumed_text, *confirm_text, *offset_start;
static char *uncounted[MAX_UNCOUNTED];
static int uncounted_count, next_port;
static char *tokens[MAX_TOKENS];
static int token_count;
static char *expects[MAX_STEPS], *says[MAX_STEPS];
static int steps;

struct phase {
    char kind[16];
    int pairs, window, rate, size, lost, signal;
    double warmup, seconds, away;
};
static struct phase phases[MAX_PHASES];
static int phase_count;

/* Clients */

enum state { NOWHERE, CONNECTING, UPGRADING, JOINING, JOINED, LEAVING, AWAY };

struct client {
    int fd;
    enum state state;
    int index;
    int id; /* the id that the server gets; in `churn`, a new one for each connection */
    int room;
    int step;
    int known; /* how many members of its room it knows, including itself */
    unsigned char *knows;
    unsigned char *rest; /* the first part of a frame */
    size_t rest_size, rest_room;
    /* of the phase */
    uint32_t sent, received, in_flight;
    int to;
    unsigned char *text;
    size_t text_size, mark_at;
    uint64_t joins, leaves;
    bool cycling, returning;
    /* of its session */
    char session[80], offset[32];
    uint32_t seen;
    /* of `drops`: the messages that it received, and the range of those sent while it was away */
    unsigned char *heard;
    uint64_t began; /* when it began to connect */
    uint32_t away_from, away_to;
};

static struct client *clients;
static int epoll, timer;
static int started, joined_count;
static uint64_t known_total;
static uint32_t mask_state = 2463534242u;

/* Of the current phase */
static struct phase *phase;
static bool sending; /* whether new messages may be sent */
static uint64_t phase_start, tick_count, received_total, cycles, pings, missing;
static uint64_t *latencies;
static size_t latency_count, latency_room;
static int poster = -1, next_id;

/* Of clients that reconnect */
static bool moved; /* whether their server has ended, so that they connect to the next one */
static int absent, under_way, resumed_count;
static int *waiting, waiting_first, waiting_end;
static uint64_t last_arrival, arrived, arrived_away, doubled, overtaken, told_left;
static uint32_t spoken;
static int lost_count, found_count, chatter;

static bool is_phase(const char *kind) { return phase && !strcmp(phase->kind, kind); }

/* Measuring */

struct usage {
    uint64_t wall, server, load, received;
};

static struct usage usage_now(void)
{
    struct usage usage = {now_ns(), 0, clock_ns(CLOCK_PROCESS_CPUTIME_ID), received_total};
    for (int i = 0; i < pid_count; i++) {
        clockid_t clock;
        if (clock_getcpuclockid(pids[i], &clock) != 0)
            fail("process %d is gone", (int)pids[i]);
        usage.server += clock_ns(clock);
    }
    return usage;
}

static double seconds_since(uint64_t start) { return (double)(now_ns() - start) / 1e9; }

/* KiB of the server's memory, including swap; shared pages count in proportion. */
static long memory_kib(void)
{
    long sum = 0;
    for (int i = 0; i < pid_count; i++) {
        char name[64], line[256];
        snprintf(name, sizeof name, "/proc/%d/smaps_rollup", (int)pids[i]);
        FILE *file = fopen(name, "r");
        if (file == NULL && moved)
            continue;
        if (file == NULL)
            fail("%s: %s", name, strerror(errno));
        long kib;
        while (fgets(line, sizeof line, file))
            if (sscanf(line, "Pss: %ld kB", &kib) == 1 || sscanf(line, "SwapPss: %ld kB", &kib) == 1)
                sum += kib;
        fclose(file);
    }
    return sum;
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double latency_ms(double part)
{
    if (latency_count == 0)
        return 0;
    size_t at = (size_t)(part * (double)latency_count);
    return (double)latencies[at < latency_count ? at : latency_count - 1] / 1e6;
}

/* Templates */

static void put(char **out, size_t *size, size_t *room, const char *data, size_t count)
{
    if (*size + count + 1 > *room) {
        *room = (*size + count) * 2 + 64;
        *out = allocate(*out, *room);
    }
    memcpy(*out + *size, data, count);
    *size += count;
    (*out)[*size] = 0;
}

/* Fill in a template; the caller frees the result. `whole` is its intended length, or 0. */
static char *expand(const char *text, const struct client *client, int to, size_t whole,
                    size_t *mark_at)
{
    int id = client->id, room = client->room;
    char *out = NULL, name[32];
    size_t size = 0, space = 0, fill_at = SIZE_MAX;
    put(&out, &size, &space, "", 0);
    while (*text) {
        const char *end = *text == '{' ? strchr(text, '}') : NULL;
        size_t length = end ? (size_t)(end - text) + 1 : 0;
        if (length == 4 && !memcmp(text, "{me}", 4)) {
            snprintf(name, sizeof name, "%s%06d", ID, id);
        } else if (length == 4 && !memcmp(text, "{to}", 4)) {
            snprintf(name, sizeof name, "%s%06d", ID, to);
        } else if (length == 6 && !memcmp(text, "{room}", 6)) {
            snprintf(name, sizeof name, "room%06d", room);
        } else if (length == 8 && !memcmp(text, "{number}", 8)) {
            snprintf(name, sizeof name, "%d", id);
        } else if (length == 6 && !memcmp(text, "{seen}", 6)) {
            snprintf(name, sizeof name, "%u", client->seen);
            const char *seen = offset_start ? client->offset : name;
            put(&out, &size, &space, seen, strlen(seen));
            text += length;
            continue;
        } else if (length == 9 && !memcmp(text, "{session}", 9)) {
            put(&out, &size, &space, client->session, strlen(client->session));
            text += length;
            continue;
        } else if (length == 6 && !memcmp(text, "{crlf}", 6)) {
            put(&out, &size, &space, "\r\n", 2);
            text += length;
            continue;
        } else if (length == 7 && !memcmp(text, "{token}", 7)) {
            const char *token = token_count ? tokens[id % token_count] : "";
            put(&out, &size, &space, token, strlen(token));
            text += length;
            continue;
        } else if (length == 6 && !memcmp(text, "{mark}", 6)) {
            char blank[MARK];
            memset(blank, '0', MARK);
            memcpy(blank, "@@", 2);
            *mark_at = size;
            put(&out, &size, &space, blank, MARK);
            text += length;
            continue;
        } else if (length == 8 && !memcmp(text, "{filler}", 8)) {
            fill_at = size;
            text += length;
            continue;
        } else {
            put(&out, &size, &space, text++, 1);
            continue;
        }
        put(&out, &size, &space, name, strlen(name));
        text += length;
    }
    if (fill_at != SIZE_MAX && whole > size) {
        size_t tail = size - fill_at, fill = whole - size, unit = strlen(filler);
        out = allocate(out, whole + 1);
        memmove(out + fill_at + fill, out + fill_at, tail + 1);
        /* Whole units only, so that no escape is cut; then `x` up to the end. */
        for (size_t i = 0; i < fill; i++)
            out[fill_at + i] = i < fill / unit * unit ? filler[i % unit] : 'x';
    }
    return out;
}

static void put_hex(unsigned char *out, uint64_t value, int digits)
{
    for (int i = digits - 1; i >= 0; i--, value >>= 4)
        out[i] = (unsigned char)"0123456789abcdef"[value & 15];
}

static uint64_t take_hex(const unsigned char *in, int digits)
{
    uint64_t value = 0;
    for (int i = 0; i < digits; i++) {
        int digit = in[i] <= '9' ? in[i] - '0' : in[i] - 'a' + 10;
        if (digit < 0 || digit > 15)
            fail("a mark is broken: %.*s", MARK, (const char *)in);
        value = value << 4 | (unsigned)digit;
    }
    return value;
}

static void put_mark(unsigned char *mark, int sender, int target, uint32_t number, uint64_t time)
{
    put_hex(mark + 2, (uint64_t)sender, 6);
    put_hex(mark + 8, (uint64_t)target, 6);
    put_hex(mark + 14, number, 8);
    put_hex(mark + 22, time, 16);
}

/* Sending */

static void send_all(int fd, const unsigned char *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            if (errno != EAGAIN || poll(&wait, 1, 10000) != 1)
                fail("the server does not read what the client sends: %s", strerror(errno));
            continue;
        }
        data += sent;
        size -= (size_t)sent;
    }
}

static void send_frame(struct client *client, int opcode, const unsigned char *text, size_t size)
{
    static unsigned char frame[BUFFER];
    if (size + 14 > sizeof frame)
        fail("message too long");
    size_t head = frame_head(frame, opcode, size, 0x80);
    mask_state ^= mask_state << 13;
    mask_state ^= mask_state >> 17;
    mask_state ^= mask_state << 5;
    memcpy(frame + head, &mask_state, 4);
    apply_mask(frame + head + 4, text, size, frame + head);
    send_all(client->fd, frame, head + 4 + size);
}

static void say(struct client *client, const char *text)
{
    size_t mark;
    char *whole = expand(text, client, 0, 0, &mark);
    send_frame(client, TEXT, (unsigned char *)whole, strlen(whole));
    free(whole);
}

/* Send this client's message of the phase, with a fresh mark. */
static void send_message(struct client *client, int target, uint64_t time)
{
    put_mark(client->text + client->mark_at, client->index, target, client->sent++, time);
    send_frame(client, TEXT, client->text, client->text_size);
}

static void send_signal(struct client *client, uint64_t time)
{
    client->in_flight++;
    send_message(client, client->to, time);
}

static void post_announcement(uint64_t time)
{
    struct client *speaker = &clients[0];
    put_mark(speaker->text + speaker->mark_at, 0, 0, speaker->sent++, time);
    send_all(poster, speaker->text, speaker->text_size);
    missing += (uint64_t)connections;
}

static void speak(void)
{
    if (poster >= 0) {
        post_announcement(now_ns());
        return;
    }
    struct client *speaker = &clients[0];
    send_message(speaker, speaker->room, now_ns());
    missing += (uint64_t)connections - 1;
}

static void prepare(struct client *client, const char *text, int to)
{
    client->to = to;
    free(client->text);
    client->text = (unsigned char *)expand(text, client, clients[to].id, (size_t)phase->size,
                                           &client->mark_at);
    client->text_size = strlen((char *)client->text);
}

/* Joining and leaving */

static void watch(int fd, struct client *client, uint32_t events, int how)
{
    struct epoll_event event = {.events = events, .data.ptr = client};
    if (epoll_ctl(epoll, how, fd, &event) != 0)
        fail("epoll: %s", strerror(errno));
}

static struct sockaddr_in address_of(uint32_t host, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(host);
    return address;
}

static void start(struct client *client, int id)
{
    static uint32_t sources;
    int on = 1;
    /* If there are two servers, the two clients of a pair use different ones. */
    int port = moved ? next_port : ports[client->index % port_count];
    client->id = id;
    client->began = now_ns();
    client->step = 0;
    client->rest_size = 0;
    client->state = CONNECTING;
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (client->fd < 0)
        fail("socket: %s; raise the limit of open files", strerror(errno));
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* From many addresses, because the ports of one would soon all be in TIME_WAIT. */
    setsockopt(client->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    sources++;
    struct sockaddr_in from = address_of(0x7F010101u + (sources % 200) * 256 + sources / 200 % 200, 0);
    if (bind(client->fd, (struct sockaddr *)&from, sizeof from) != 0)
        fail("bind: %s", strerror(errno));
    struct sockaddr_in to = address_of(INADDR_LOOPBACK, port);
    if (connect(client->fd, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    watch(client->fd, client, EPOLLOUT, EPOLL_CTL_ADD);
}

static void upgrade(struct client *client)
{
    int error;
    socklen_t size = sizeof error;
    getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        fail("connect: %s", strerror(error));
    char request[4096];
    size_t mark;
    char *target = expand(path, client, 0, 0, &mark);
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
                          "Upgrade: websocket\r\nUser-Agent: bench\r\n"
                          "Sec-WebSocket-Version: 13\r\n"
                          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                          target);
    free(target);
    client->state = UPGRADING;
    watch(client->fd, client, EPOLLIN, EPOLL_CTL_MOD);
    send_all(client->fd, (unsigned char *)request, (size_t)length);
}

static void leave(struct client *client)
{
    static const unsigned char code[2] = {1000 >> 8, 1000 & 255};
    client->state = LEAVING;
    client->cycling = true;
    send_frame(client, CLOSE, code, 2);
}

static void left(struct client *client)
{
    close(client->fd);
    client->fd = -1;
    start(client, next_id++ % IDS);
}

/* Reconnecting */

/* The client's network fails: the client reads nothing more, and the server is not informed. */
static void lose(struct client *client)
{
    watch(client->fd, client, 0, EPOLL_CTL_DEL);
    client->state = AWAY;
    client->away_from = spoken;
    client->away_to = UINT32_MAX; /* until it has reconnected */
    absent++;
}

/* The network is back. First the old connection is reset, which discards everything in it. */
static void come_back(struct client *client)
{
    struct linger now = {1, 0};
    setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(client->fd);
    client->returning = true;
    start(client, client->id);
}

/* The server has ended; the client waits for its turn to connect to the next one. */
static void cut_off(struct client *client)
{
    close(client->fd);
    client->fd = -1;
    client->state = NOWHERE;
    client->returning = true;
    known_total -= (uint64_t)client->known;
    client->known = 0;
    memset(client->knows, 0, (size_t)room_size / 8 + 1);
    absent++;
    if (waiting_end == connections)
        fail("client %d lost its connection to the next server", client->index);
    waiting[waiting_end++] = client->index;
}

/* Note the session's id, and count its texts. */
static void follow_session(struct client *client, const unsigned char *text, size_t size)
{
    const unsigned char *id = memmem(text, size, session_key, strlen(session_key));
    if (client->state == JOINING && id != NULL) {
        id += strlen(session_key);
        const unsigned char *end = memchr(id, '"', (size_t)(text + size - id));
        if (end == NULL || (size_t)(end - id) >= sizeof client->session)
            fail("a session's id has no end: %.*s", (int)size, (const char *)text);
        /* If the session was resumed, the id is the same, and counting continues. */
        if (strlen(client->session) != (size_t)(end - id) || memcmp(client->session, id, end - id))
            client->seen = 0;
        snprintf(client->session, sizeof client->session, "%.*s", (int)(end - id), (const char *)id);
        return;
    }
    if (offset_start) {
        size_t length = strlen(offset_start);
        if (size < length + 2 || memcmp(text, offset_start, length) || memcmp(text + size - 2, "\"]", 2))
            return;
        const unsigned char *last = memrchr(text, '"', size - 2);
        if (last++ != NULL)
            snprintf(client->offset, sizeof client->offset, "%.*s", (int)(text + size - 2 - last),
                     (const char *)last);
        return;
    }
    for (int i = 0; i < uncounted_count; i++)
        if (size >= strlen(uncounted[i]) && !memcmp(text, uncounted[i], strlen(uncounted[i])))
            return;
    if (*client->session && ++client->seen % CONFIRM_AFTER == 0 && confirm_text)
        say(client, confirm_text);
}

/* Note which members of the room a text mentions. */
static void learn(struct client *client, const unsigned char *text, size_t size)
{
    const unsigned char *end = text + size;
    while ((text = memmem(text, (size_t)(end - text), ID, sizeof ID - 1))) {
        text += sizeof ID - 1;
        if (end - text < ID_DIGITS)
            return;
        int id = 0, digits = 0;
        for (; digits < ID_DIGITS && text[digits] >= '0' && text[digits] <= '9'; digits++)
            id = id * 10 + text[digits] - '0';
        if (digits < ID_DIGITS)
            continue;
        if (id / room_size != client->room)
            fail("misrouted: client %d of room %d got id %d", client->id, client->room, id);
        unsigned char bit = (unsigned char)(1 << (id % room_size & 7));
        unsigned char *byte = &client->knows[id % room_size / 8];
        if (!(*byte & bit)) {
            *byte |= bit;
            client->known++;
            known_total++;
        }
    }
}

static void joined(struct client *client)
{
    client->state = JOINED;
    if (!client->cycling) {
        char self[32]; /* not every server lists a client to itself */
        int size = snprintf(self, sizeof self, "%s%06d", ID, client->id);
        if (room_size > 1)
            learn(client, (unsigned char *)self, (size_t)size);
        if (client->returning) {
            client->returning = false;
            client->away_to = spoken;
            absent--;
            under_way--;
            if (latency_count < latency_room)
                latencies[latency_count++] = now_ns() - client->began;
        } else {
            joined_count++;
        }
        return;
    }
    client->cycling = false;
    cycles++;
    received_total++;
    if (sending)
        leave(client);
}

/* Whether a text reports that the session was resumed, so that the client still knows its room. */
static bool is_resumed(struct client *client, const unsigned char *text, size_t size)
{
    if (!client->returning || !*client->session)
        return false;
    size_t mark;
    char *expected = expand(resumed_text, client, 0, 0, &mark);
    bool found = memmem(text, size, expected, strlen(expected)) != NULL;
    free(expected);
    return found;
}

static void advance(struct client *client, const unsigned char *text, size_t size)
{
    if (is_resumed(client, text, size)) {
        known_total += (uint64_t)(room_size - client->known);
        client->known = room_size;
        resumed_count++;
        joined(client);
        return;
    }
    const char *expected = expects[client->step];
    if (!memmem(text, size, expected, strlen(expected)))
        return;
    bool again = client->returning && *client->session && client->step == 0;
    const char *answer = again ? come_back_text : says[client->step];
    client->step++;
    if (answer)
        say(client, answer);
    if (client->step == steps)
        joined(client);
}

/* Receiving */

static void note_latency(const unsigned char *mark)
{
    if (latency_count < latency_room)
        latencies[latency_count++] = now_ns() - take_hex(mark + 22, 16);
}

static void check_mark(struct client *client, const unsigned char *mark)
{
    int sender = (int)take_hex(mark + 2, 6), target = (int)take_hex(mark + 8, 6);
    uint32_t number = (uint32_t)take_hex(mark + 14, 8);
    bool to_room = !strcmp(phase->kind, "fanout") || !strcmp(phase->kind, "announce");
    if (target != (to_room ? client->room : client->index) && poster < 0)
        fail("misrouted: client %d got what %d sent to %d", client->index, sender, target);
    if (number != client->received)
        fail("lost or duplicated: client %d got number %u from %d, not %u", client->index, number,
             sender, client->received);
    client->received++;
    received_total++;
    if (to_room) {
        missing--;
        if (poster >= 0)
            note_latency(mark);
        uint64_t audience = (uint64_t)connections - (poster < 0);
        if (sending && missing + audience <= (uint64_t)phase->window * audience)
            speak();
        return;
    }
    clients[sender].in_flight--;
    missing--;
    if (phase->rate == 0) {
        if (sending) {
            missing++;
            send_signal(&clients[sender], now_ns());
        }
    } else {
        note_latency(mark);
    }
}

/* A message of the chat; duplicates are counted separately. */
static void hear(struct client *client, const unsigned char *mark)
{
    uint32_t number = (uint32_t)take_hex(mark + 14, 8);
    if ((int)take_hex(mark + 8, 6) != client->room || number >= spoken)
        fail("misrouted: client %d got %.*s", client->index, MARK, (const char *)mark);
    unsigned char bit = (unsigned char)(1 << (number & 7));
    if (client->heard[number / 8] & bit) {
        doubled++;
        return;
    }
    client->heard[number / 8] |= bit;
    if (number < client->received)
        overtaken++;
    client->received = number;
    received_total++;
    missing--;
    arrived++;
    arrived_away += number >= client->away_from && number < client->away_to;
    last_arrival = now_ns();
}

static void count_moves(struct client *client, const unsigned char *text, size_t size)
{
    if (joins && memmem(text, size, joins, strlen(joins)))
        client->joins++;
    else if (leaves && memmem(text, size, leaves, strlen(leaves)))
        client->leaves++;
}

static void on_text(struct client *client, const unsigned char *text, size_t size)
{
    if (text_ping && size == strlen(text_ping) && !memcmp(text, text_ping, size)) {
        pings++;
        say(client, text_pong);
        return;
    }
    const unsigned char *mark = phase ? memmem(text, size, "@@", 2) : NULL;
    if (session_key)
        follow_session(client, text, size);
    bool told = is_phase("deploy") && leaves && memmem(text, size, leaves, strlen(leaves));
    told_left += told;
    if ((phase == NULL || is_phase("deploy")) && room_size > 1 && !told)
        learn(client, text, size);
    /* Some servers first send the missed messages, and then report that the session was resumed. */
    if (client->state == JOINING && mark == NULL) {
        advance(client, text, size);
        return;
    }
    if (phase == NULL || is_phase("deploy"))
        return;
    if (is_phase("drops")) {
        if (mark != NULL)
            hear(client, mark);
        return;
    }
    if (!strcmp(phase->kind, "churn")) {
        count_moves(client, text, size);
        return;
    }
    if (mark == NULL && joins && memmem(text, size, joins, strlen(joins)))
        return; /* a late report about a client that is known already */
    if (mark == NULL || mark + MARK > text + size)
        fail("client %d got an unknown text: %.*s", client->index, (int)size, (const char *)text);
    check_mark(client, mark);
}

static void on_frame(struct client *client, int opcode, const unsigned char *data, size_t size)
{
    switch (opcode) {
    case TEXT:
        on_text(client, data, size);
        break;
    case PING:
        pings++;
        send_frame(client, PONG, data, size);
        break;
    case PONG:
        break;
    case CLOSE:
        if (is_phase("deploy") && !client->returning) {
            cut_off(client);
            break;
        }
        if (client->state != LEAVING)
            fail("client %d was closed: %d %.*s", client->index,
                 size >= 2 ? data[0] << 8 | data[1] : 0, size >= 2 ? (int)size - 2 : 0, data + 2);
        left(client);
        break;
    default:
        fail("client %d got a frame that begins with %#x", client->index, opcode);
    }
}

/* Handle the complete frames in `data`; returns their length in bytes. */
static size_t parse(struct client *client, const unsigned char *data, size_t size)
{
    size_t at = 0;
    if (client->state == UPGRADING) {
        const unsigned char *end = memmem(data, size, "\r\n\r\n", 4);
        if (end == NULL)
            return 0;
        if (size < 12 || memcmp(data, "HTTP/1.1 101", 12) != 0)
            fail("refused: %.*s", (int)(end - data), (const char *)data);
        at = (size_t)(end - data) + 4;
        client->state = JOINING;
    }
    int fd = client->fd;
    while (client->fd == fd && client->state != CONNECTING) {
        uint64_t length;
        size_t head = read_head(data + at, size - at, &length);
        if (head == 0 || size - at - head < length)
            break;
        size_t frame = at;
        at += head + length;
        on_frame(client, data[frame], data + frame + head, length);
    }
    return client->state == CONNECTING ? size : at;
}

static void receive(struct client *client)
{
    static unsigned char buffer[BUFFER];
    size_t there = client->rest_size;
    if (there)
        memcpy(buffer, client->rest, there);
    ssize_t got = recv(client->fd, buffer + there, sizeof buffer - there, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0 && is_phase("deploy") && !client->returning) {
        cut_off(client);
        return;
    }
    if (got <= 0) {
        if (client->state != LEAVING)
            fail("client %d lost its connection: %s", client->index, got ? strerror(errno) : "end");
        left(client);
        return;
    }
    client->rest_size = 0;
    there += (size_t)got;
    size_t done = parse(client, buffer, there);
    if (done == there)
        return;
    client->rest_size = there - done;
    if (client->rest_room < client->rest_size) {
        client->rest_room = client->rest_size;
        client->rest = allocate(client->rest, client->rest_room);
    }
    memcpy(client->rest, buffer + done, client->rest_size);
}

static void read_answer(void)
{
    static char answer[BUFFER];
    ssize_t got = recv(poster, answer, sizeof answer - 1, MSG_DONTWAIT);
    if (got <= 0)
        fail("the server closed the connection of the announcer");
    answer[got] = 0;
    if (!strncmp(answer, "HTTP/1.1 ", 9) && answer[9] != '2')
        fail("the announcement was refused: %.*s", (int)got, answer);
}

/* Send a message to all, each time from the next client that is connected. */
static void chat(uint64_t time)
{
    struct client *speaker;
    do
        speaker = &clients[chatter++ % connections];
    while (speaker->state != JOINED);
    if (speaker->text == NULL)
        prepare(speaker, speech_text, 0);
    speaker->sent = spoken++;
    missing += (uint64_t)connections - 1;
    send_message(speaker, speaker->room, time);
}

/* Let `lost` clients lose their network, one after the other, each for `away` seconds. */
static void drop_some(void)
{
    double every = (phase->seconds - phase->away) / phase->lost, now = seconds_since(phase_start);
    for (; lost_count < phase->lost && lost_count * every < now; lost_count++)
        lose(&clients[lost_count * (connections / phase->lost)]);
    for (; found_count < lost_count && found_count * every + phase->away < now; found_count++)
        come_back(&clients[found_count * (connections / phase->lost)]);
}

static void on_tick(void)
{
    uint64_t times, interval = 1000000000u / (uint64_t)(phase->rate ? phase->rate : 1);
    if (read(timer, &times, sizeof times) != sizeof times || !sending)
        return;
    while (times--) { /* also for missed ticks: latencies count from the scheduled time */
        if (is_phase("drops")) {
            chat(phase_start + ++tick_count * interval);
            continue;
        }
        struct client *client = &clients[2 * (tick_count % (uint64_t)phase->pairs)];
        missing++;
        send_signal(client, phase_start + ++tick_count * interval);
    }
}

static void turn(int milliseconds)
{
    static struct epoll_event events[512];
    if (is_phase("drops"))
        drop_some();
    int count = epoll_wait(epoll, events, 512, milliseconds);
    for (int i = 0; i < count; i++) {
        struct client *client = events[i].data.ptr;
        if (client == NULL)
            on_tick();
        else if (client == (void *)&poster)
            read_answer();
        else if (client->state == CONNECTING)
            upgrade(client);
        else
            receive(client);
    }
}

/* The phases */

/* Print the beginning of a phase's line. */
static void print_usage(const char *kind, struct usage first, struct usage last, uint64_t count)
{
    printf("{\"phase\":\"%s\",\"seconds\":%.6f,\"server_cpu\":%.6f,\"load_cpu\":%.6f,"
           "\"count\":%llu,\"memory\":%ld",
           kind, (double)(last.wall - first.wall) / 1e9,
           (double)(last.server - first.server) / 1e9, (double)(last.load - first.load) / 1e9,
           (unsigned long long)count, memory_kib());
}

/* Print the end of a phase's line. */
static void print_latencies(void)
{
    qsort(latencies, latency_count, sizeof *latencies, by_size);
    if (latency_count)
        printf(",\"p50_ms\":%.4f,\"p90_ms\":%.4f,\"p99_ms\":%.4f,\"p999_ms\":%.4f,\"max_ms\":%.4f",
               latency_ms(.5), latency_ms(.9), latency_ms(.99), latency_ms(.999), latency_ms(1));
    printf("}\n");
    fflush(stdout);
}

static void join_all(void)
{
    uint64_t begin = now_ns();
    long before = memory_kib();
    uint64_t wanted = room_size > 1 ? (uint64_t)connections * (uint64_t)room_size : 0;
    struct usage first = usage_now();
    while (joined_count < connections || known_total < wanted) {
        int due = pace ? (int)(seconds_since(begin) * pace) + 1 : joined_count + AT_A_TIME;
        for (; started < connections && started < due; started++)
            start(&clients[started], started);
        turn(started < connections && pace ? 1 : 100);
        if (seconds_since(begin) > give_up)
            fail("after %.0f s, %d of %d have joined, and know %.1f %% of each other", give_up,
                 joined_count, connections, 100. * (double)known_total / (double)(wanted + !wanted));
    }
    print_usage("join", first, usage_now(), (uint64_t)connections);
    printf(",\"memory_before\":%ld}\n", before);
    fflush(stdout);
}

/* End the server, and wait until all have joined the next one and know their rooms. */
static void run_deploy(void)
{
    uint64_t wanted = (uint64_t)connections * (uint64_t)room_size;
    waiting = allocate(NULL, (size_t)connections * sizeof *waiting);
    latency_count = 0;
    latency_room = (size_t)connections;
    latencies = allocate(latencies, latency_room * sizeof *latencies);
    phase_start = now_ns();
    struct usage first = usage_now();
    if (next_port == 0 || kill(pids[0], phase->signal) != 0)
        fail("a deploy needs a next_port, and a pid that can be signaled");
    moved = true;
    while (waiting_end < connections || absent > 0 || known_total < wanted) {
        for (; waiting_first < waiting_end && under_way < BACK_AT_A_TIME; under_way++) {
            struct client *client = &clients[waiting[waiting_first++]];
            start(client, client->id);
        }
        turn(20);
        if (seconds_since(phase_start) > give_up)
            fail("after %.0f s, %d of %d are missing, and all know %.1f %% of each other", give_up,
                 absent + connections - waiting_end, connections,
                 100. * (double)known_total / (double)wanted);
    }
    print_usage("deploy", first, usage_now(), (uint64_t)connections);
    printf(",\"resumed\":%d,\"told_left\":%llu", resumed_count, (unsigned long long)told_left);
    print_latencies();
}

static void begin_ticking(void)
{
    uint64_t interval = 1000000000u / (uint64_t)phase->rate;
    struct timespec tick = {(time_t)(interval / 1000000000u), (long)(interval % 1000000000u)};
    struct itimerspec every = {tick, tick};
    timerfd_settime(timer, 0, &every, NULL);
}

/* In pair k, client 2k sends signals to client 2k + 1; the other clients are idle. */
static void begin_relay(void)
{
    for (int k = 0; k < phase->pairs; k++)
        prepare(&clients[2 * k], signal_text, 2 * k + 1);
    phase_start = now_ns();
    if (phase->rate) {
        begin_ticking();
        latency_room = (size_t)(phase->rate * (phase->seconds + phase->warmup)) + 1000;
        latencies = allocate(latencies, latency_room * sizeof *latencies);
        return;
    }
    for (int i = 0; i < phase->window; i++)
        for (int k = 0; k < phase->pairs; k++) {
            missing++;
            send_signal(&clients[2 * k], now_ns());
        }
}

static void begin_fanout(void)
{
    prepare(&clients[0], speech_text, 0);
    for (int i = 0; i < phase->window; i++)
        speak();
}

static void begin_announce(void)
{
    struct sockaddr_in to = address_of(INADDR_LOOPBACK, ports[0]);
    poster = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(poster, (struct sockaddr *)&to, sizeof to) != 0)
        fail("connect: %s", strerror(errno));
    watch(poster, (void *)&poster, EPOLLIN, EPOLL_CTL_ADD);
    prepare(&clients[0], post_text, 0);
    latency_room = 1 << 21;
    latencies = allocate(latencies, latency_room * sizeof *latencies);
    for (int i = 0; i < phase->window; i++)
        speak();
}

static void begin_churn(void)
{
    /* The first of each two stays, and counts the joins and leaves of others. */
    for (int i = 1; i < connections; i += 2)
        leave(&clients[i]);
}

static void begin_drops(void)
{
    size_t most = (size_t)(phase->rate * phase->seconds) * 2;
    for (int i = 0; i < connections; i++) {
        clients[i].heard = allocate(NULL, most / 8 + 1);
        memset(clients[i].heard, 0, most / 8 + 1);
    }
    last_arrival = phase_start;
    begin_ticking();
}

static void begin(void)
{
    for (int i = 0; i < connections; i++) {
        struct client *client = &clients[i];
        client->sent = client->received = client->in_flight = 0;
        client->joins = client->leaves = 0;
    }
    received_total = cycles = pings = missing = tick_count = 0;
    latency_count = 0;
    sending = true;
    phase_start = now_ns();
    if (!strcmp(phase->kind, "relay"))
        begin_relay();
    else if (!strcmp(phase->kind, "fanout"))
        begin_fanout();
    else if (!strcmp(phase->kind, "announce"))
        begin_announce();
    else if (!strcmp(phase->kind, "churn"))
        begin_churn();
    else if (!strcmp(phase->kind, "drops"))
        begin_drops();
    else if (strcmp(phase->kind, "idle") != 0)
        fail("unknown phase: %s", phase->kind);
}

static bool is_settled(void)
{
    if (is_phase("drops")) /* what arrives later counts as lost */
        return absent == 0 && (missing == 0 || seconds_since(last_arrival) > 2);
    if (strcmp(phase->kind, "churn") != 0)
        return missing == 0;
    for (int i = 0; i < connections; i++)
        if (clients[i].state != JOINED)
            return false;
    uint64_t came = 0, went = 0;
    for (int i = 0; i < connections; i += 2) {
        came += clients[i].joins;
        went += clients[i].leaves;
    }
    return (!joins || came == cycles) && (!leaves || went == cycles);
}

/* Wait until all messages have arrived. */
static void settle(void)
{
    sending = false;
    struct itimerspec never = {0};
    timerfd_settime(timer, 0, &never, NULL);
    uint64_t since = now_ns();
    while (!is_settled()) {
        turn(100);
        if (seconds_since(since) > 10)
            fail("lost: %s ended with %llu messages missing", phase->kind,
                 (unsigned long long)missing);
    }
    if (poster >= 0) {
        close(poster);
        poster = -1;
    }
}

/* Print how many messages have arrived, of all, and of those sent to clients that were away. */
static void print_drops(void)
{
    uint64_t due = (uint64_t)spoken * (uint64_t)(connections - 1), due_away = 0;
    for (int i = 0; i < connections; i++)
        due_away += clients[i].away_to - clients[i].away_from;
    printf(",\"due\":%llu,\"arrived\":%llu,\"due_away\":%llu,\"arrived_away\":%llu,"
           "\"doubled\":%llu,\"overtaken\":%llu,\"resumed\":%d",
           (unsigned long long)due, (unsigned long long)arrived, (unsigned long long)due_away,
           (unsigned long long)arrived_away, (unsigned long long)doubled,
           (unsigned long long)overtaken, resumed_count);
}

static void run_phase(void)
{
    begin();
    while (seconds_since(phase_start) < phase->warmup)
        turn(1);
    struct usage first = usage_now();
    size_t warm = latency_count;
    while ((double)(now_ns() - first.wall) / 1e9 < phase->seconds)
        turn(20);
    struct usage last = usage_now();
    settle();
    if (warm) {
        latency_count -= warm;
        memmove(latencies, latencies + warm, latency_count * sizeof *latencies);
    }
    print_usage(phase->kind, first, last, last.received - first.received);
    printf(",\"pings\":%llu", (unsigned long long)pings);
    if (is_phase("drops"))
        print_drops();
    print_latencies();
}

/* Reading the settings */

static void read_phase(char *line)
{
    if (phase_count == MAX_PHASES)
        fail("too many phases");
    struct phase *new = &phases[phase_count++];
    *new = (struct phase){.pairs = 1, .window = 1, .size = 200, .seconds = 1, .lost = 1, .away = 1,
                          .signal = SIGKILL};
    snprintf(new->kind, sizeof new->kind, "%s", strtok(line, " "));
    for (char *word; (word = strtok(NULL, " "));) {
        char *value = strchr(word, '=');
        if (value == NULL)
            fail("a phase's setting without a value: %s", word);
        *value++ = 0;
        if (!strcmp(word, "pairs")) new->pairs = atoi(value);
        else if (!strcmp(word, "window")) new->window = atoi(value);
        else if (!strcmp(word, "rate")) new->rate = atoi(value);
        else if (!strcmp(word, "size")) new->size = atoi(value);
        else if (!strcmp(word, "lost")) new->lost = atoi(value);
        else if (!strcmp(word, "signal")) new->signal = atoi(value);
        else if (!strcmp(word, "away")) new->away = atof(value);
        else if (!strcmp(word, "warmup")) new->warmup = atof(value);
        else if (!strcmp(word, "seconds")) new->seconds = atof(value);
        else fail("unknown setting of a phase: %s", word);
    }
}

static void read_setting(const char *name, char *value)
{
    if (!strcmp(name, "port") && port_count < MAX_PORTS) ports[port_count++] = atoi(value);
    else if (!strcmp(name, "pid") && pid_count < MAX_PORTS) pids[pid_count++] = atoi(value);
    else if (!strcmp(name, "connections")) connections = atoi(value);
    else if (!strcmp(name, "room_size")) room_size = atoi(value);
    else if (!strcmp(name, "pace")) pace = atoi(value);
    else if (!strcmp(name, "give_up")) give_up = atof(value);
    else if (!strcmp(name, "path")) path = strdup(value);
    else if (!strcmp(name, "expect") && steps < MAX_STEPS) expects[steps++] = strdup(value);
    else if (!strcmp(name, "say") && steps) says[steps - 1] = strdup(value);
    else if (!strcmp(name, "signal")) signal_text = strdup(value);
    else if (!strcmp(name, "speech")) speech_text = strdup(value);
    else if (!strcmp(name, "post")) post_text = strdup(value);
    else if (!strcmp(name, "token") && token_count < MAX_TOKENS) tokens[token_count++] = strdup(value);
    else if (!strcmp(name, "filler")) filler = strdup(value);
    else if (!strcmp(name, "text_ping")) text_ping = strdup(value);
    else if (!strcmp(name, "text_pong")) text_pong = strdup(value);
    else if (!strcmp(name, "joins")) joins = strdup(value);
    else if (!strcmp(name, "leaves")) leaves = strdup(value);
    else if (!strcmp(name, "session")) session_key = strdup(value);
    else if (!strcmp(name, "come_back")) come_back_text = strdup(value);
    else if (!strcmp(name, "resumed")) resumed_text = strdup(value);
    else if (!strcmp(name, "confirm")) confirm_text = strdup(value);
    else if (!strcmp(name, "offsets")) offset_start = strdup(value);
    else if (!strcmp(name, "uncounted") && uncounted_count < MAX_UNCOUNTED) uncounted[uncounted_count++] = strdup(value);
    else if (!strcmp(name, "next_port")) next_port = atoi(value);
    else if (!strcmp(name, "phase")) read_phase(value);
    else fail("unknown setting: %s", name);
}

static void read_settings(void)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    while ((length = getline(&line, &room, stdin)) > 0) {
        if (line[length - 1] == '\n')
            line[--length] = 0;
        if (length == 0 || line[0] == '#')
            continue;
        char *value = strchr(line, ' ');
        if (value == NULL)
            fail("a setting without a value: %s", line);
        *value++ = 0;
        read_setting(line, value);
    }
    free(line);
    if (port_count == 0 || steps == 0)
        fail("port and expect are needed");
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    read_settings();
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    epoll = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    watch(timer, NULL, EPOLLIN, EPOLL_CTL_ADD);
    clients = allocate(NULL, (size_t)connections * sizeof *clients);
    memset(clients, 0, (size_t)connections * sizeof *clients);
    for (int i = 0; i < connections; i++) {
        clients[i].index = i;
        clients[i].room = i / room_size;
        clients[i].knows = allocate(NULL, (size_t)room_size / 8 + 1);
        memset(clients[i].knows, 0, (size_t)room_size / 8 + 1);
    }
    next_id = connections;
    join_all();
    for (int i = 0; i < phase_count; i++) {
        phase = &phases[i];
        if (is_phase("deploy"))
            run_deploy();
        else
            run_phase();
    }
    return 0;
}
