/*
 * Which copy of a session may serve without a look at the server: one key, a
 * process with two questions under way and a save of its own, and others that
 * save. Answers, and messages that tell of saves, carry the fence of the record,
 * which grows with every save. Messages keep their order; answers do not. This is
 * cache.go of internal/remote.
 *
 * -DCHANGES=4 ... sets the size; -DANYANSWER and -DNOHEARD each take a piece out.
 */

#ifndef CHANGES
#define CHANGES 4	/* saves, of others and of this process */
#endif

byte server = 1;		/* the fence of the record */
chan messages = [CHANGES] of { byte };

/* the entry of the cache */
byte copy = 0;			/* its fence; 0: none */
bool stale = false;		/* the server may hold something else */
byte heard = 0, changes = 0;

/* questions: not asked, asked, looked up by the server */
byte at[2], began[2], answer[2];

/* the save of this process: the server has it, with this fence; its reply is on the way */
byte own = 0;
bool replying = false;

#ifdef ANYANSWER
#define CROSSED(i) false
#else
#define CROSSED(i) (began[i] != changes)
#endif

#ifdef NOHEARD
#define OLDER(fence) false
#else
#define OLDER(fence) (fence < heard)
#endif

/* This process knows of the last change: it was told, or it was its own. */
#define TOLD (len(messages) == 0 || (own == server && !replying))

#define check	assert(copy == 0 || stale || !TOLD || copy == server)

#define question(i)							\
	:: atomic { at[i] == 0 -> began[i] = changes; at[i] = 1 }		\
	:: atomic { at[i] == 1 -> answer[i] = server; at[i] = 2 }	\
	:: atomic { at[i] == 2 ->					\
		if							\
		:: CROSSED(i) && answer[i] < copy			\
		:: else ->						\
			copy = answer[i];				\
			stale = CROSSED(i) && OLDER(answer[i]);		\
			if						\
			:: !stale -> heard = answer[i]			\
			:: else						\
			fi						\
		fi;							\
		at[i] = 0;						\
		check }

active proctype Everybody()
{
	byte fence;
end:	do
	:: atomic { server <= CHANGES -> server++; messages!server }	/* somebody saves */
	:: atomic { server <= CHANGES && !replying ->			/* this process saves */
		server++; messages!server; own = server; replying = true }
	:: atomic { replying ->						/* and hears that it has */
		replying = false;
		changes++;
		copy = own;
		stale = OLDER(own);
		check }
	:: atomic { messages?fence ->					/* a message */
		changes++;
		heard = (fence > heard -> fence : heard);
		stale = (fence == copy -> stale : true);
		check }
	question(0)
	question(1)
	od
}
