/* What `cargo xtask bench vm` runs in a guest as a 32-bit program: the pieces of `guest_work.rs` by which 32-bit code differs from 64-bit
   code, named by `work=` on the kernel's command line. Compiled with `cc -m32 -O2 -static`, it is the guest's first process. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile uint32_t sink;
static volatile double real_sink;

static void call_down(int depth)
{
	if (depth > 0) {
		call_down(depth - 1);
		sink += depth;
	}
}

static void calls(void)
{
	for (int turn = 0; turn < 1000000; turn++)
		call_down(24);
}

static void chase(void)
{
	enum { PLACES = 1 << 16 };
	static uint32_t next[PLACES];
	uint32_t at = 0;
	for (uint32_t place = 0; place < PLACES; place++)
		next[place] = (place * 40503u + 12345) % PLACES;
	for (int turn = 0; turn < 40000000; turn++)
		at = next[at];
	sink = at;
}

static void copy(void)
{
	static char from[64 << 10], to[64 << 10];
	for (int turn = 0; turn < 60000; turn++) {
		memcpy(to, from, sizeof to);
		from[turn & 0xffff] ^= to[1];
	}
}

static void doubles(void)
{
	double x = 1.0, sum = 0.0;
	volatile double factor = 1.0001;
	for (int turn = 0; turn < 20000000; turn++) {
		x = x * factor + 0.5;
		sum += x / (1.0001 + turn);
		if (x > 1e9)
			x = 1.0;
	}
	real_sink = sum;
}

static void floats(void)
{
	static float a[1024], b[1024];
	for (int turn = 0; turn < 40000; turn++) {
		for (int at = 0; at < 1024; at++)
			a[at] = a[at] * 0.5f + b[at];
		b[turn & 1023] += 1;
	}
	real_sink = a[5];
}

static void integer(void)
{
	uint32_t a = 1, b = 2;
	for (uint32_t turn = 0; turn < 200000000; turn++) {
		a += b ^ turn;
		b = b * 3 + 1;
	}
	sink = a + b;
}

static void nothing(void)
{
}

static void sieve(void)
{
	enum { NUMBERS = 1 << 20 };
	static char prime[NUMBERS];
	for (int turn = 0; turn < 10; turn++) {
		memset(prime, 1, sizeof prime);
		for (int number = 2; number < NUMBERS; number++)
			if (prime[number])
				for (int multiple = 2 * number; multiple < NUMBERS; multiple += number)
					prime[multiple] = 0;
		sink += prime[7];
	}
}

static int order(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
	return left < right ? -1 : left > right;
}

static void sort(void)
{
	enum { NUMBERS = 1 << 18 };
	static uint32_t numbers[NUMBERS];
	uint32_t seed = 1;
	for (int turn = 0; turn < 5; turn++) {
		for (int at = 0; at < NUMBERS; at++)
			numbers[at] = seed = seed * 1664525 + 1013904223;
		qsort(numbers, NUMBERS, sizeof *numbers, order);
	}
	sink = numbers[9];
}

static void spawn(void)
{
	for (int turn = 0; turn < 1000; turn++) {
		pid_t child = fork();
		if (child == 0)
			_exit(0);
		waitpid(child, NULL, 0);
	}
}

static void turn_about(void)
{
	int there[2], back[2];
	char byte = 0;
	if (pipe(there) || pipe(back))
		return;
	pid_t child = fork();
	for (int turn = 0; turn < 30000; turn++) {
		int from = child ? back[0] : there[0], to = child ? there[1] : back[1];
		if (child && write(to, &byte, 1) != 1)
			return;
		if (read(from, &byte, 1) != 1)
			return;
		if (!child && write(to, &byte, 1) != 1)
			return;
	}
	if (!child)
		_exit(0);
	waitpid(child, NULL, 0);
}

static void system_calls(void)
{
	for (int turn = 0; turn < 1500000; turn++)
		syscall(SYS_getppid);
}

static const struct {
	const char *name;
	void (*work)(void);
} pieces[] = {
	{ "calls", calls },   { "chase", chase },	{ "copy", copy },   { "double", doubles },
	{ "float", floats },  { "integer", integer }, { "nothing", nothing }, { "sieve", sieve },
	{ "sort", sort },     { "spawn", spawn },	{ "switch", turn_about }, { "syscall", system_calls },
};

int main(void)
{
	const char *wanted = getenv("work");
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	int console = open("/dev/console", O_WRONLY);
	for (size_t at = 0; wanted && at < sizeof pieces / sizeof *pieces; at++) {
		if (strcmp(wanted, pieces[at].name))
			continue;
		dprintf(console, "BEGIN %s\n", wanted);
		pieces[at].work();
		dprintf(console, "DONE %s 1\n", wanted);
	}
	sync();
	reboot(RB_AUTOBOOT);
	return 0;
}
