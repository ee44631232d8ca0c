/* All that one guest tries, in rounds: what has run often is translated. */
#include "guest.h"

void tests(void) {
  for (int round = 0; round < 4; round++) {
    forget_pages();
    group("exceptions", test_exceptions);
    group("paging", test_paging);
    group("registers", test_registers);
    group("debug", test_debug);
    group("code", test_code);
    group("strings", test_strings);
    group("modes", test_modes);
    group("narrow", test_narrow);
    group("interrupts", test_interrupts);
    group("points", test_points);
    group("operands", test_operands);
    group("segments", test_segments);
    group("apic", test_apic);
    if (round < 2) group("rights", test_rights);
    if (processors > 1 && round < 2) group("many", test_many);
  }
}
