# What a whole guest is tried with, in the guest.
set -e
cd /tmp
cat > sum.c <<'C'
#include <math.h>
#include <stdio.h>
int main(void) {
    double sum = 0;
    for (int i = 1; i < 1000; i++) sum += sqrt(i);
    printf("compiled %.3f\n", sum);
    return 0;
}
C
gcc -O2 -o sum sum.c -lm
./sum
python3 -c 'import hashlib, sys; print("python", sys.version_info[:2], hashlib.sha256(b"x" * 100000).hexdigest()[:16])'
apt-get -q update
apt-get -q -y install hello
hello
systemctl is-system-running --wait || true
systemctl --failed --no-pager
echo whole-guest-done
