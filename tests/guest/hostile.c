/* A hypervisor in a guest's hands: a program in QEMU's place, with the descriptors of a real VM.
 *
 * It answers its control socket, so that the agent takes it for a QEMU that runs, and does what is typed into its
 * console:
 *
 *     call NUMBER A B C D E F    a system call; what came of it is printed as "= RESULT ERRNO"
 *     name TEXT                  calls itself so
 *     end CODE                   ends
 *     leader                     ends its first thread; another lives on
 *     qmp silent                 no longer says anything to the control socket
 *
 * Arguments are numbers, @buffer (zeroed memory, 64 KiB), @int (four bytes in it that hold the number 4), or
 * @control (the descriptor of the control connection). */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static char buffer[65536];
static int four = 4;
static int control = -1, silent;
static char **argv_of_all;

static void say(int fd, const char *text) { if (write(fd, text, strlen(text)) < 0) { } }

static long number(const char *word)
{
    if (!word)
        return 0;
    if (!strcmp(word, "@buffer"))
        return (long)buffer;
    if (!strcmp(word, "@int"))
        return (long)&four;
    if (!strcmp(word, "@control"))
        return control;
    return strtol(word, NULL, 0);
}

static void *last(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void obey(char *line)
{
    char out[128], *words[8] = { 0 }, *save = NULL;
    int count = 0;
    for (char *word = strtok_r(line, " \r\n", &save); word && count < 8; word = strtok_r(NULL, " \r\n", &save))
        words[count++] = word;
    if (!count)
        return;
    if (!strcmp(words[0], "call")) {
        four = 4;
        errno = 0;
        long result = syscall(number(words[1]), number(words[2]), number(words[3]), number(words[4]),
                              number(words[5]), number(words[6]), number(words[7]));
        snprintf(out, sizeof out, "= %ld %d\n", result, result == -1 ? errno : 0);
        say(1, out);
    } else if (!strcmp(words[0], "name")) {
        /* As a process is told by what it calls itself. */
        memset(argv_of_all[0], 0, strlen(argv_of_all[0]));
        char *place = argv_of_all[0];
        place[0] = 'x';
        if (argv_of_all[1])
            snprintf(argv_of_all[1], strlen(argv_of_all[1]) + 1, "%s", words[1] ? words[1] : "");
        memmove(place + 2, words[1] ? words[1] : "", strlen(words[1] ? words[1] : "") + 1);
        say(1, "= named\n");
    } else if (!strcmp(words[0], "leader")) {
        pthread_t other;
        if (pthread_create(&other, NULL, last, NULL))
            return;
        say(1, "= alone\n");
        syscall(SYS_exit, 0);
    } else if (!strcmp(words[0], "qmp")) {
        silent = 1;
        say(1, "= silent\n");
    } else if (!strcmp(words[0], "end")) {
        exit((int)number(words[1]));
    } else {
        say(1, "= what?\n");
    }
}

/* One answer for every line that comes. */
static void answer(int fd, char *line)
{
    char out[512], *id = strstr(line, "\"id\":");
    const char *result = "{}";
    if (silent)
        return;
    if (strstr(line, "query-status"))
        result = "{\"running\": true, \"status\": \"running\", \"singlestep\": false}";
    else if (strstr(line, "query-kvm"))
        result = "{\"enabled\": false, \"present\": false}";
    else if (strstr(line, "add-fd"))
        result = "{\"fdset-id\": 77, \"fd\": 77}";
    snprintf(out, sizeof out, "{\"return\": %s, \"id\": %ld}\r\n", result, id ? strtol(id + 5, NULL, 10) : 0);
    say(fd, out);
}

int main(int argc, char **argv)
{
    static char typed[4096], heard[65536];
    size_t typed_size = 0, heard_size = 0;
    int listener = -1;
    /* A trial zone's program only sleeps. */
    if (strstr(argv[0], "sleep"))
        return pause();
    argv_of_all = argv;
    for (int i = 1; i < argc; i++) {
        char *at = strstr(argv[i], "id=control,fd=");
        if (at)
            listener = atoi(at + strlen("id=control,fd="));
    }
    say(1, "hostile: ready\n");
    for (;;) {
        struct pollfd polled[3] = { { 0, POLLIN, 0 }, { listener, POLLIN, 0 }, { control, POLLIN, 0 } };
        if (poll(polled, 3, -1) < 0)
            return 1;
        if (polled[0].revents & POLLIN) {
            ssize_t got = read(0, typed + typed_size, sizeof typed - 1 - typed_size);
            if (got <= 0)
                return 1;
            typed[typed_size += (size_t)got] = 0;
            for (char *end; (end = strchr(typed, '\n')) != NULL;) {
                *end = 0;
                char line[4096];
                strcpy(line, typed);
                typed_size -= (size_t)(end + 1 - typed);
                memmove(typed, end + 1, typed_size + 1);
                obey(line);
            }
        }
        if (polled[1].revents & POLLIN) {
            if (control >= 0)
                close(control);
            control = accept(listener, NULL, NULL);
            heard_size = 0;
            if (!silent)
                say(control, "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n");
            continue;
        }
        if (control >= 0 && polled[2].revents) {
            ssize_t got = read(control, heard + heard_size, sizeof heard - 1 - heard_size);
            if (got <= 0) {
                close(control);
                control = -1;
                continue;
            }
            heard[heard_size += (size_t)got] = 0;
            for (char *end; (end = strchr(heard, '\n')) != NULL;) {
                *end = 0;
                answer(control, heard);
                heard_size -= (size_t)(end + 1 - heard);
                memmove(heard, end + 1, heard_size + 1);
            }
        }
    }
}
