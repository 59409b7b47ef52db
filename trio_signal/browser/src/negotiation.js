// The negotiation of one link, as a table.

/**
 * The negotiation of one link: in each state, what an input leads to, as [next state, action].
 * An input that has no entry changes nothing.
 *
 * States: `idle`; `asking`, an offer was asked for; `making` an offer; `offering`, an offer is out;
 * `applying` an answer; `owing`, the same, and another offer was asked for meanwhile;
 * `taking` their offer; `answering` it.
 *
 * Inputs from this side: `change`, something here must be negotiated, by an offer of ours; `need`,
 * the same, by an offer of theirs; and the ends of the steps: `made` or `failed`, `applied` or
 * `refused`, `taken`, `answered`.
 * Inputs from the other side: `request`, it asks for an offer; `answer`; and its offers, by
 * {@link inputOf}.
 */
export const NEGOTIATION = {
  idle: {
    change: ['making', 'offer'],
    need: ['asking', 'ask'],
    request: ['making', 'offer'],
    offer: ['taking', 'take'],
    yield: ['taking', 'take'],
  },
  asking: {
    change: ['making', 'offer'],
    need: ['asking', 'ask'],
    request: ['making', 'offer'],
    offer: ['taking', 'take'],
    yield: ['taking', 'take'],
  },
  making: {
    made: ['offering', 'sendOffer'],
    failed: ['idle', 'settle'],
    yield: ['taking', 'take'],
  },
  offering: {
    answer: ['applying', 'apply'],
    answerLost: ['offering', 'sendOffer'],
    yield: ['taking', 'take'],
  },
  applying: {
    applied: ['idle', 'settle'],
    refused: ['offering', null],
    request: ['owing', null],
    offer: ['taking', 'take'],
    yield: ['taking', 'take'],
  },
  owing: {
    applied: ['making', 'offer'],
    refused: ['offering', null],
    offer: ['taking', 'take'],
    yield: ['taking', 'take'],
  },
  taking: {
    taken: ['answering', 'answer'],
    yield: ['taking', 'take'],
  },
  answering: {
    answered: ['idle', 'settle'],
    yield: ['taking', 'take'],
  },
};

/**
 * Which input an offer is.
 *
 * - `offer`: one that need not be taken while an offer of ours is under way: ours stands.
 * - `yield`: one before which ours stands back, since we are polite, or since the other side knows
 *   nothing of these rules.
 * - `answerLost`: the other side has taken our first offer, and its answer was lost.
 *
 * @param {{ session?: string, re?: string }} offer
 * @param {{ polite: boolean, isFirst: boolean }} link - `isFirst`: nothing of theirs was applied yet.
 */
export function inputOf({ session, re }, { polite, isFirst }) {
  if (!polite && session !== undefined) return 'offer';
  return isFirst && re !== undefined ? 'answerLost' : 'yield';
}
