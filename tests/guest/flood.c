// Writes SIZE bytes of text to the first serial port as fast as the machine takes them: past the kernel's driver,
// which a hypervisor in software makes ten times slower. What it writes follows from SIZE alone, so that whoever
// reads it can tell each byte (tests/guest/readers.rs has the same).
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/io.h>

int main(int count, char **words) {
    static char line[4096];
    uint64_t state = 88172645463325252, left = count > 1 ? strtoull(words[1], 0, 0) : 0;
    if (iopl(3)) {
        perror("flood: iopl");
        return 1;
    }
    while (left) {
        size_t length = left < sizeof line ? left : sizeof line;
        for (size_t at = 0; at < length; at++) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            line[at] = at % 64 == 63 ? '\n' : 'a' + state % 26;
        }
        outsb(0x3f8, line, length);
        left -= length;
    }
    return 0;
}
