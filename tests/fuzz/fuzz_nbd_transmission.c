/*
 * A client that has entered an export, by a negotiation the input chooses among a few: any requests
 * with any payload, in pieces of any size, over disks that are slow, full or broken. See
 * nbd_script.h for what inputs mean and nbd_judge.h for what must be true whatever they say.
 */
#include "kit.h"
#include "nbd_judge.h"
#include "nbd_script.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig_session session;

	script_compose(&session, data, size, true);
	rig_run(&session);
	judge_session(&session);
	return 0;
}
