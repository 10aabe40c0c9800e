// Frames as they are on the wire.
//
//   wire send IFACE HEX...   sends each frame
//   wire hear IFACE          prints each frame that comes in with the word ZONEWARD in it, from there on to its first
//                            full stop, for as long as it runs
//   wire flood IFACE HEX N   sends a frame N times, as fast as it can
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static size_t parse(const char *hex, unsigned char *frame, size_t room) {
    size_t length = 0;
    for (unsigned byte; length < room && sscanf(hex, "%2x", &byte) == 1; hex += 2) {
        frame[length++] = byte;
        if (!hex[1]) break;
    }
    return length;
}

int main(int count, char **words) {
    unsigned char frame[65536];
    if (count < 3) return 2;
    struct sockaddr_ll link = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    link.sll_ifindex = if_nametoindex(words[2]);
    int wire = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    if (wire < 0 || bind(wire, (struct sockaddr *)&link, sizeof link)) {
        perror("wire");
        return 1;
    }
    if (!strcmp(words[1], "send")) {
        for (int word = 3; word < count; word++) {
            size_t length = parse(words[word], frame, sizeof frame);
            if (send(wire, frame, length, 0) < 0) perror("wire: send");
        }
        printf("SENT\n");
        return 0;
    }
    if (!strcmp(words[1], "flood") && count == 5) {
        size_t length = parse(words[3], frame, sizeof frame);
        long sent = 0;
        for (long left = atol(words[4]); left > 0; left--) sent += send(wire, frame, length, 0) > 0;
        printf("FLOODED %ld\n", sent);
        return 0;
    }
    struct packet_mreq promiscuous = {.mr_ifindex = link.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
    setsockopt(wire, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous, sizeof promiscuous);
    printf("HEARING\n");
    fflush(stdout);
    for (;;) {
        struct sockaddr_ll from;
        socklen_t size = sizeof from;
        ssize_t length = recvfrom(wire, frame, sizeof frame, 0, (struct sockaddr *)&from, &size);
        if (length < 0) return 1;
        if (from.sll_pkttype == PACKET_OUTGOING) continue;
        unsigned char *word = memmem(frame, length, "ZONEWARD", 8);
        unsigned char *end = word ? memchr(word, '.', frame + length - word) : NULL;
        if (end) printf("HEARD %.*s\n", (int)(end - word), word);
        // A server's word, in whatever it is.
        if (length > 42 && frame[12] == 8 && frame[13] == 0 && frame[23] == 17 && frame[36] == 0 && frame[37] == 67)
            printf("HEARD a request for an address\n");
        fflush(stdout);
    }
}
