// SPDX-License-Identifier: Apache-2.0
// Fills a heap of 512 MB to three quarters with small objects and arrays, drops and makes a part of them again and
// again so that the collector moves the others, and prints a checksum of all that is alive.

import java.util.Arrays;

final class Heap {
    private static final int COUNT = 180_000;
    private static final int ROUNDS = 3;

    private record Entry(long key, String name, long[] numbers) { }

    private static Entry make(long number) {
        long[] numbers = new long[240];
        for (int at = 0; at < numbers.length; at++) {
            numbers[at] = number * 31 + at % 17;
        }
        return new Entry(number, "entry-" + number, numbers);
    }

    public static void main(String[] words) {
        Entry[] entries = new Entry[COUNT];
        for (int at = 0; at < COUNT; at++) {
            entries[at] = make(at);
        }
        for (int round = 1; round <= ROUNDS; round++) {
            for (int at = round; at < COUNT; at += 7 + round) {
                entries[at] = make((long) round * COUNT + at);
            }
        }
        long sum = 0;
        for (Entry entry : entries) {
            sum = sum * 1_000_003 + entry.key() + entry.name().hashCode() + Arrays.hashCode(entry.numbers());
        }
        System.out.println(COUNT + " " + sum);
    }
}
