/*
 * A client that negotiates: any options with any data, in pieces of any size, into an export and on
 * from there, or away in the middle. See nbd_script.h for what inputs mean and nbd_judge.h for what
 * must be true whatever they say.
 */
#include "kit.h"
#include "nbd_judge.h"
#include "nbd_script.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig_session session;

	script_compose(&session, data, size, false);
	rig_run(&session);
	judge_session(&session);
	return 0;
}
