// SPDX-License-Identifier: MIT
/*
 * Strict mode: what a card would answer with damaged data, a hang or nothing at
 * all, the model refuses. It says so once for each rule, and counts the rest.
 */
#include "cmd680_priv.h"

static const struct {
	const char *what;
	const char *then;
} rules[STRICT_RULES] = {
	[STRICT_TIMING] = { "timings of the chip do not agree with the drive's mode (sections 4.5, 8)",
			    "command aborted" },
	[STRICT_TASKFILE] = { "task file accessed while the engine runs (section 4.2)", "access ignored" },
	[STRICT_PRD] = { "PRD entry crosses 64 KiB (section 6.1)", "master abort" },
};

/**
 * cmd680_strict_refuses() - a rule is broken: whether the model refuses
 * @ch: where
 * @rule: which
 *
 * Return: false unless the model is strict.
 */
bool cmd680_strict_refuses(struct channel *ch, enum strict_rule rule)
{
	struct model *m = ch->m;
	uint64_t *count[STRICT_RULES] = {
		[STRICT_TIMING] = &m->count.refused_timings,
		[STRICT_TASKFILE] = &m->count.refused_accesses,
		[STRICT_PRD] = &m->count.refused_prds,
	};

	if (!m->config.strict)
		return false;
	if (!(*count[rule])++)
		cmd680_say("cmd680 model: strict: channel %u: %s: %s", ch->index, rules[rule].what,
			   rules[rule].then);
	return true;
}

/* How often, for the rules that were broken more than the one time that was told. */
void cmd680_strict_summary(const struct model *m)
{
	const uint64_t count[STRICT_RULES] = {
		[STRICT_TIMING] = m->count.refused_timings,
		[STRICT_TASKFILE] = m->count.refused_accesses,
		[STRICT_PRD] = m->count.refused_prds,
	};

	for (unsigned int i = 0; i < STRICT_RULES; i++)
		if (count[i] > 1)
			cmd680_say("cmd680 model: strict: %llu times in all: %s", (unsigned long long)count[i],
				   rules[i].what);
}
