/*
 * How processes that share a session take turns to refresh it: one key of a
 * store with lease and fence, and a server whose refresh tokens work once. The
 * page README.md says in words what is checked and what is assumed.
 *
 * A token is a number, and the server has issued 1 .. newest. Token 0 in the
 * store means that there is no session, because the user has logged out.
 *
 * -DN=3 -DROUNDS=1 ...  set the size; -DNOFENCE, -DNOREREAD, -DNOLEASE,
 * -DNORECHECK, -DONLYMINE and -DNOTOMBSTONE each take a piece out.
 */

#ifndef N
#define N 2		/* processes */
#endif
#ifndef ROUNDS
#define ROUNDS 2	/* how often each wants a new token */
#endif
#ifndef LAPSES
#define LAPSES 2	/* how often a lease ends under its holder */
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

#define NOBODY N

/* the server */
byte newest = 1;
bool over = false;		/* it has seen a token twice */

/* the store */
byte stored = 1;
byte fence = 0, saved = 0;	/* given last, and of the last save */
byte holder = NOBODY;
bool left = false;		/* the user has logged out */

/* what has gone wrong so far */
byte lapses = 0, crashes = 0, losses = 0, misses = 0;
bool excused = false;		/* a token that the server issued may be lost, or one may be sent twice */

byte finished = 0;		/* processes */

/* where each process is */
bool told[N];			/* that its lease has ended */
bool cleared[N];		/* to send: it has looked whether its lease lasts */
bool waiting[N];		/* for a reply */
bool robbed[N];			/* of the lease of this turn */

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
	byte p;
end:	do
	:: lapse(0)
	:: lapse(1)
#if N > 2
	:: lapse(2)
#endif
	od
}

#ifdef NOLEASE
#define FREE true
#else
#define FREE (holder == NOBODY)
#endif

#ifdef NOFENCE
#define TAKEN true
#else
#ifdef ONLYMINE
#define TAKEN (holder == me)
#else
#define TAKEN (mine > saved)
#endif
#endif

/* To acquire is one step of the store, and gives what is stored. */
inline acquire(mine, current)
{
	atomic {
		FREE ->
		fence++;
		mine = fence;
		holder = me;
		current = stored;
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
inline save(mine, next)
{
	atomic {
		if
		:: TAKEN ->
			assert(!left || next == 0);	/* no late save undoes a logout */
			assert(next > stored);		/* nothing newer is replaced */
			stored = next;
			saved = mine
		:: else ->
			assert(mine <= saved)		/* nothing is refused but for what is newer */
		fi;
		unsaved = 0;
		if
		:: holder == me -> holder = NOBODY
		:: else
		fi;
		cleared[me] = false
	}
}

/* One program on one machine. unsaved is what it could not store, 0 if there
   is nothing; from is the token that was traded in for that. */
proctype Process(byte me)
{
	byte mine, current, next, found;
	byte known = 1;		/* the token it used last, which is expiring */
	byte unsaved = 0, from = 0;
	byte rounds = 0;

turn:	if
	:: rounds == ROUNDS && unsaved == 0 -> goto done
	:: else
	fi;
	if
	:: rounds < ROUNDS -> rounds++
	:: else
	fi;
	acquire(mine, current);

	/* What it could not store counts as stored, if nobody else has stored. */
	if
	:: unsaved != 0 && current == from -> next = unsaved; goto store
	:: else -> unsaved = 0
	fi;
	if
	:: current == 0 -> release(); goto done
	:: else
	fi;
#ifdef NOREREAD
	current = known;
#else
	if
	:: current > known -> known = current; release(); goto turn	/* adopted */
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
		assert(current >= found);	/* never an older one than was stored when the turn began */
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
		:: current == newest && !over -> newest++; next = newest
		:: else ->
			assert(excused || over || left);	/* no session is lost without a cause */
			over = true;
			next = 0
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
	:: save(mine, next); goto turn
	fi;

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
		:: finished == N && !over && !excused && !left ->
			assert(stored == newest)	/* without a fault nothing is missing */
		:: else
		fi
	}
}

/* The user logs out, some time or never. */
proctype User()
{
	byte mine;
	if
	:: atomic {
		FREE ->
		fence++;
		mine = fence;
		stored = 0;
		left = true;
#ifdef NOTOMBSTONE
		fence = 0;
		saved = 0
#else
		saved = mine
#endif
	}
	:: skip
	fi
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
