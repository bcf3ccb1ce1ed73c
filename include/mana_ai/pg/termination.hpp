// SIGTERM in a background process of ours.
//
// PostgreSQL's own handler would end the process inside whatever statement runs, with the leases
// still held. Ours ends the statement as a cancel does, which the guard can catch, so that the
// process can put its things in order first. It has about two seconds: whoever waits for the
// server's end waits for us.
#pragma once

namespace mana_ai::pg {

void install_termination_handler();

// From the signal on until take_termination(). Meanwhile no transaction begins (Transaction throws
// ERRCODE_ADMIN_SHUTDOWN), and one that is open commits without waiting for a standby.
bool termination_requested();

// Takes note of it: the last transactions can run, and further signals do not cancel them (the
// postmaster sends each twice). They do not wait for a standby either: it may be away for longer
// than anybody waits for a shutdown.
void take_termination();

// For Transaction: before it commits.
void commit_without_standby_if_terminating();

}  // namespace mana_ai::pg
