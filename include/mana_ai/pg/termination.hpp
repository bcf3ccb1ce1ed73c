// SIGTERM in a background process of the extension.
//
// PostgreSQL's own handler would end the process inside a running statement, with the leases still
// held. This one ends the statement like a cancel, which the guard can catch, so that the process
// can clean up first. It has about two seconds, since the server's shutdown waits for it.
#pragma once

namespace mana_ai::pg {

void install_termination_handler();

// True from the signal until take_termination(). In this time no transaction begins (Transaction
// throws ERRCODE_ADMIN_SHUTDOWN), and an open one commits without waiting for a standby.
bool termination_requested();

// Acknowledges it: the last transactions can run, and further signals do not cancel them (the
// postmaster sends each twice). They do not wait for a standby either: it may be unavailable for
// longer than a shutdown may take.
void take_termination();

// For Transaction: before it commits.
void commit_without_standby_if_terminating();

}  // namespace mana_ai::pg
