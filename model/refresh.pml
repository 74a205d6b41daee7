/*
 * How processes that share a session take turns to refresh it: one key of a
 * store with lease and fence, and a server whose refresh tokens work once. The
 * page README.md says in words what is checked and what is assumed.
 *
 * A token is a number. Those of the first login are 1 .. newest[0], those of a
 * second one SECOND .. newest[1]; a later one expires later. Token 0 in the store
 * means that there is no session, because the user has logged out, or, without
 * a stamp, because the store has forgotten what it knew.
 *
 * -DN=3 -DROUNDS=1 ...  set the size; -DFORGIVING makes a server that answers a
 * token that was sent before; -DNOCOMPARE, -DCOMPAREONLY, -DNOREREAD, -DNOLEASE,
 * -DNORECHECK, -DONLYMINE, -DNOTOMBSTONE, -DNOKEEP and -DNOFORGET each take a
 * piece out.
 */

#ifndef N
#define N 2		/* processes */
#endif
#ifndef ROUNDS
#define ROUNDS 2	/* how often each wants a new token */
#endif
#ifndef LAPSES
#define LAPSES 1	/* how often a lease ends under its holder */
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef LOSSES
#define LOSSES 1	/* replies lost on the way back */
#endif
#ifndef MISSES
#define MISSES 1	/* saves that do not reach the store */
#endif
#ifndef FLUSHES
#define FLUSHES 0	/* how often the store forgets all it knew */
#endif
#ifndef FAILOVERS
#define FAILOVERS 0	/* how often the store loses its last save */
#endif

#define NOBODY (N + 1)		/* N is the user, who logs in and out */
#define SECOND 64
#define LOGIN(token) ((token) / SECOND)
#define SAME(a, b) ((a) != 0 && (b) != 0 && LOGIN(a) == LOGIN(b))

/* the server */
byte newest[2] = { 1, SECOND };
bool over[2];			/* it has seen a token twice */

/* the store */
byte stored = 1;
byte stamp = 1;			/* of the save that stored it; 0: none is known */
byte stamps = 1;		/* given so far */
byte fence = 0, saved = 0;	/* given last, and of the last save */
byte holder = NOBODY;
byte before = 1, stampBefore = 1;	/* the last save, as a replica has them */
bool left = false;		/* the user has logged out or in again */
bool out = false;		/* has logged out, as far as the store can know */

/* what has gone wrong so far */
byte lapses = 0, crashes = 0, losses = 0, misses = 0, flushes = 0, failovers = 0;
bool excused = false;		/* a token that the server issued may be lost, or one may be sent twice */

byte finished = 0;		/* processes */

/* where each process is; the last is the user */
bool told[N + 1];		/* that its lease has ended */
bool cleared[N + 1];		/* to send: it has looked whether its lease lasts */
bool waiting[N + 1];		/* for a reply */
bool robbed[N + 1];		/* of the lease of this turn */

/* A lease may end at any time. The holder is told, but may be past the moment
   when it would have looked: paused, or with its request on the way. */
#define lapse(p)						\
	atomic {						\
		(holder == p && lapses < LAPSES) ->		\
		lapses++;					\
		holder = NOBODY;				\
		told[p] = true;					\
		robbed[p] = true;				\
		if						\
		:: cleared[p] -> excused = true			\
		:: else						\
		fi						\
	}

active proctype Time()
{
end:	do
	:: lapse(0)
	:: lapse(1)
#if N > 2
	:: lapse(2)
#endif
	:: lapse(N)
	:: atomic {			/* the store forgets: the lease too */
		(flushes < FLUSHES) ->
		flushes++;
		stored = 0;
		stamp = 0;
		saved = 0;
		before = 0;
		stampBefore = 0;
		excused = true;
		out = false;
		if
		:: holder != NOBODY -> told[holder] = true; robbed[holder] = true
		:: else
		fi;
		holder = NOBODY
	}
	:: atomic {			/* a replica takes over that lacks the last save */
		(failovers < FAILOVERS && SAME(stored, before) && stored != before) ->
		failovers++;
		stored = before;
		stamp = stampBefore;
		excused = true		/* who does not have what was lost sends what has been used */
	}
	od
}

#ifdef NOLEASE
#define FREE true
#else
#define FREE (holder == NOBODY)
#endif

/* Whether the store takes a save. */
#ifdef NOCOMPARE
#define TAKEN (mine > saved)
#else
#ifdef ONLYMINE
#define TAKEN (holder == me)
#else
#ifdef NOFORGET
#define TAKEN (stamp == seen)
#else
#define TAKEN (stamp == seen || (stamp == 0 && stored == 0))
#endif
#endif
#endif

/* Whether what was refreshed replaces what somebody else has stored. */
#define REPLACES (SAME(next, stored) && next > stored)
#ifdef COMPAREONLY
#undef REPLACES
#define REPLACES false
#endif
#ifdef ONLYMINE
#undef REPLACES
#define REPLACES false
#endif

/* To acquire is one step of the store, and gives what is stored. */
inline acquire()
{
	atomic {
		FREE ->
		fence++;
		mine = fence;
		holder = me;
		current = stored;
		seen = stamp;
		told[me] = false;
		robbed[me] = false;
		found = stored
	}
}

inline release()
{
	atomic {
		if
		:: holder == me -> holder = NOBODY
		:: else
		fi;
		cleared[me] = false
	}
}

/* To save is one step too, and gives the lease back. */
inline put(next)
{
	before = stored;
	stampBefore = stamp;
	stored = next;
	stamps++;
	stamp = stamps;
	saved = (mine > saved -> mine : saved + 1);
	fence = (saved > fence -> saved : fence);
	if
	:: holder == me -> holder = NOBODY
	:: else
	fi;
	cleared[me] = false
}

/* One program on one machine. unsaved is what it could not store, 0 if there
   is nothing; from is the token that was traded in for that. */
proctype Process(byte me)
{
	byte mine, current, seen, next, found;
	byte known = 1;		/* the token it used last, which is expiring */
	byte unsaved = 0, from = 0;
	byte rounds = 0;
	bool conflict;

turn:	if
	:: rounds == ROUNDS && unsaved == 0 -> goto done
	:: else
	fi;
	if
	:: rounds < ROUNDS -> rounds++
	:: else
	fi;
	acquire();

	/* What it could not store counts as stored, if nobody else has stored. */
	if
	:: unsaved != 0 && current == from -> next = unsaved; goto store
	:: else -> unsaved = 0
	fi;
	if
	:: current == 0 -> release(); goto done
	:: else
	fi;
#ifndef NOKEEP
	if	/* the store has lost a save: the copy at hand is the later state */
	:: SAME(known, current) && known > current -> current = known
	:: else
	fi;
#endif
#ifdef NOREREAD
	current = known;
#else
	if
	:: !SAME(current, known) || current > known ->	/* adopted */
		known = current;
		release();
		goto turn
	:: else
	fi;
#endif

send:	/* It looks whether its lease lasts, and sends. In between it may be paused. */
	atomic {
#ifndef NORECHECK
		if
		:: told[me] -> release(); goto turn
		:: else
		fi;
#endif
		cleared[me] = true
	}
	atomic {
		/* Never an older one than was stored when the turn began, or than it knew. */
		assert(!SAME(current, found) || current >= found);
		assert(!SAME(current, known) || current >= known);
		/* Nobody else waits for a reply whose lease has lasted. */
		assert(me == 0 || !waiting[0] || robbed[0] || robbed[me]);
		assert(me == 1 || !waiting[1] || robbed[1] || robbed[me]);
#if N > 2
		assert(me == 2 || !waiting[2] || robbed[2] || robbed[me]);
#endif
		waiting[me] = true
	}

	/* At the server. */
	atomic {
		if
		:: current == newest[LOGIN(current)] && !over[LOGIN(current)] ->
			newest[LOGIN(current)]++; next = newest[LOGIN(current)]
		:: else ->
#ifdef FORGIVING
			newest[LOGIN(current)]++; next = newest[LOGIN(current)]
#else
			/* No session is lost without a cause. */
			assert(excused || over[LOGIN(current)] || left);
			over[LOGIN(current)] = true;
			next = 0
#endif
		fi
	}

	/* And back. */
	if
	:: atomic { losses < LOSSES && next != 0 -> losses++; excused = true; waiting[me] = false; next = 0 };
		if
		:: goto send			/* it tries again, which it may */
		:: release(); goto turn		/* or later */
		fi
	:: atomic { crashes < CRASHES ->
			crashes++;
			if
			:: next != 0 -> excused = true
			:: else
			fi;
			waiting[me] = false };
		goto crash
	:: waiting[me] = false
	fi;
	if
	:: next == 0 -> release(); goto done	/* the session is over */
	:: else
	fi;
	from = current;
	known = next;

store:	if
	:: atomic { misses < MISSES ->		/* the store does not answer: later */
			misses++;
			excused = true;
			unsaved = next;
			cleared[me] = false };
		/* the lease lapses, as it cannot be given back */
		atomic {
			if
			:: holder == me -> holder = NOBODY
			:: else
			fi
		};
		goto turn
	:: atomic { crashes < CRASHES -> crashes++; excused = true };
		goto crash
	:: atomic {
			conflict = !(TAKEN);
			if
			:: !conflict ->
				/* Neither another login nor a logout is undone, nor anything newer. */
				assert(stamp == 0 || SAME(next, stored) && next > stored);
				assert(!out);
				put(next);
				unsaved = 0
			:: else
			fi
		};
		if
		:: !conflict -> goto turn
		:: else
		fi
	fi;

	/* Somebody else has stored: a later state of the same login replaces that,
	   and else the newer stays. */
	atomic {
		if
		:: REPLACES -> seen = stamp; goto store
		:: stamp == 0 && stored == 0 && TAKEN -> goto store
		:: else ->
			/* No good token is thrown away. */
			assert(stamp != 0 && (stored == 0 || !SAME(next, stored) || stored > next));
			unsaved = 0;
			release()
		fi
	};
	goto turn;

crash:	/* All memory is lost. The lease lapses, and the program comes back. */
	atomic {
		if
		:: holder == me -> holder = NOBODY
		:: else
		fi;
		cleared[me] = false;
		told[me] = false;
		known = stored;
		unsaved = 0;
		from = 0
	};
	if
	:: known == 0 -> goto done
	:: else -> goto turn
	fi;

done:	atomic {
		cleared[me] = false;
		waiting[me] = false;
		finished++;
		if
		:: finished == N && !excused && !left && !over[0] ->
			assert(stored == newest[0])	/* without a fault nothing is missing */
		:: else
		fi
	}
}

/* The user logs out or in again, some time or never. That takes a turn too, and
   may be as late as a refresh. What was acknowledged is never undone: a refresh
   asserts it when it saves. */
proctype User()
{
	byte me = N, mine, current, seen, found, wanted;
	if
	:: wanted = 0
	:: wanted = SECOND
	:: goto quiet
	fi;
again:	acquire();
	atomic {
		if
		:: TAKEN ->
			left = true;
			out = (wanted == 0);
			put(wanted);
#ifdef NOTOMBSTONE
			if
			:: wanted == 0 -> stamp = 0; saved = 0
			:: else
			fi;
#endif
			goto quiet
		:: else -> release()
		fi
	};
	goto again;
quiet:	skip
}

init {
	atomic {
		byte i = 0;
		do
		:: i < N -> run Process(i); i++
		:: else -> break
		od;
		run User()
	}
}
